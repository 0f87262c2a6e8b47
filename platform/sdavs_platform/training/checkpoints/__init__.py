"""Sharded checkpoints: written, verified, resharded, resumed."""
