"""From masks to responses: JSON with run lengths, png, zip, overlay video."""
