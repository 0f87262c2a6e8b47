"""The published data sets, one layout a file: AVSBench (MS3, S4, AVSS), VPO, AVIS."""
