"""SDAVS on a cluster: config, training, tuning, tracking, storage, evaluation, and the local stack."""
