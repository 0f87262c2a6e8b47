"""The platform on one machine: Ray, MLflow and the endpoint for `make demo`, started, reused and stopped."""
