"""Strangers' files are decoded in processes that have limits, no secrets, no further files, and may die."""
