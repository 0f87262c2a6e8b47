"""The names of the conditions under which a clip's sound is measured; without torch, for records and reports."""

RIGHT, SILENCE, SWAPPED, OFF_SCREEN = "right", "silence", "swapped", "off-screen"
NOISE_ONLY, WHITE_NOISE = "noise only", "white noise"
"""Sounds of the listening test."""

PAPER_FACTOR = 0.1
"""The paper's scaling factor."""
ORIGINAL = "original audio"
"""Name of the condition without added noise."""


def factor_condition(noise: str) -> str:
    """Name of the condition with a noise at the paper's factor."""
    return f"{noise} x {PAPER_FACTOR}"


def snr_condition(noise: str, snr_db: int) -> str:
    """Name of the condition with a noise at a signal-to-noise ratio in dB."""
    return f"{noise} {snr_db} dB"
