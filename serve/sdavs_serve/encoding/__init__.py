"""Masks to responses: RLE, PNG, overlays."""
