"""Rollouts: a new version is verified, loaded next to the old one, compared, and given traffic step by step."""
