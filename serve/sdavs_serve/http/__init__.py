"""The HTTP side: requests, forms, admission, keys, errors, metrics."""
