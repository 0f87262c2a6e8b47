"""Metrics, per-phase timers, profiles and progress of a training."""
