"""Model architectures, one folder each."""
