"""The platform on one machine: Ray, an MLflow server and the endpoint for `make demo`, and their orderly end."""
