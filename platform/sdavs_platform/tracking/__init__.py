"""MLflow: one run per training, one artifact per registered model version."""
