"""Clips, and what every data set shares: files to arrays, arrays to tensors."""
