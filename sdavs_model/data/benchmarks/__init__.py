"""The published data sets, by layout: AVSBench (MS3 and S4, AVSS), VPO, AVIS. `data/datasets.py` registers them."""
