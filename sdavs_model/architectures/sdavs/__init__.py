"""SDAVS (IEEE TMM 2026): SNRP, DAMF and the decoder, one paper section a file."""
