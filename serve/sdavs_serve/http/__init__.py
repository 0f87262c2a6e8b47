"""The HTTP side: requests, forms, limits, keys, errors, metrics."""
