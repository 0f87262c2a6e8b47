"""Untrusted uploads are decoded in processes with limits, without secrets or access to files, that may die.

`sandboxed_decoders.py` (in the ingress) -> `fork_server.py` (limits memory, time and rights) -> `decoder.py` ->
`media.py` (limits length and size of pictures). All limits are keys of `ServeConfig`; bytes and speed of an upload are
limited before, in `http/admission.py`.
"""
