"""Benchmarks of models, data loading, recovery and scaling; predictions for hardware that is not here."""
