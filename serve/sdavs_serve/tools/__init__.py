"""Load tests and fuzzing of a local endpoint."""
