"""Tools for data sets on disk: import and validation."""
