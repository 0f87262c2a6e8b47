#!/bin/sh
# Make MLflow's two databases where they are missing; waits for the server. libpq's PG* variables say where it is.
set -eu
until pg_isready --quiet --timeout=3; do
  echo "waiting for Postgres at ${PGHOST}"
  sleep 2
done
for name in mlflow mlflow_auth; do
  found=$(psql --dbname=postgres --no-align --tuples-only --command="SELECT 1 FROM pg_database WHERE datname = '${name}'")
  [ "$found" = 1 ] || createdb "$name"
done
