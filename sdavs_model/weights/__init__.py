"""Pretrained weights: the known ones by name, fetched or converted; files are read without running code in them."""
