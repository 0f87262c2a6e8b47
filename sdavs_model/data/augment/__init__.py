"""Augmentation of training clips: frames, audio, and the order in which both are changed."""
