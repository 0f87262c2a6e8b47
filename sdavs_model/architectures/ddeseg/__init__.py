"""DDESeg (CVPR 2025, arXiv 2503.12840): dynamic derivation and elimination of audio semantics, one module a file."""
