"""The config tree, its command line, and where a checkout keeps its state."""
