"""Load tests of a local endpoint, and fuzzing of its decoders."""
