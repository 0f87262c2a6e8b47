"""SDAVS on a cluster: training, tracking, and the local stack."""
