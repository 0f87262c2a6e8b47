#!/bin/sh
# Dump MLflow's databases into a folder, or restore them from one. libpq's PG* variables say where the server is.
#   backup.sh dump FOLDER       FOLDER/mlflow.dump, FOLDER/mlflow_auth.dump; no server has to stop
#   backup.sh restore FOLDER    replaces both databases; nobody may be connected: scale MLflow to 0 first
# Dumped before artifacts are copied, a database never names an artifact that the copy lacks.
set -eu
action=$1
folder=$2
for name in mlflow mlflow_auth; do
  file="$folder/$name.dump"
  case "$action" in
    dump)
      # A name that ends in .part until the dump is whole.
      pg_dump --format=custom --no-owner --file="$file.part" "$name"
      mv "$file.part" "$file"
      ;;
    restore)
      pg_restore --list "$file" >/dev/null # refuses a damaged file before anything is dropped
      dropdb --if-exists "$name"
      createdb "$name"
      pg_restore --exit-on-error --no-owner --single-transaction --dbname="$name" "$file"
      ;;
    *)
      echo "backup.sh: '$action' is not allowed; allowed: dump, restore" >&2
      exit 2
      ;;
  esac
  echo "$action $name: $(wc -c <"$file") bytes"
done
