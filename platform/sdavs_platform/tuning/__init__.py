"""Sweeps: hyperparameter searches and ablation studies with many trainings, their trials and records."""
