"""Measurements inside a trained model, without a cluster: the paper's IV-C to IV-E and IV-H."""
