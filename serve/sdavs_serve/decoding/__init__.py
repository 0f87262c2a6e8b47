"""Untrusted uploads are decoded in processes with limits, without secrets or access to files, that may die."""
