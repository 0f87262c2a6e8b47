"""Print the Secrets that the platform needs, with fresh random values, as Kubernetes manifests.

    kubectl apply -f infra/kuberay/base/namespace.yaml
    python infra/kuberay/make_secrets.py | kubectl apply -f -                      everything, once
    python infra/kuberay/make_secrets.py --only mlflow-train | kubectl apply -f -  one again: rotation, docs/runbook.md
    python infra/kuberay/make_secrets.py --database-password-file FILE | ...       a managed Postgres has a password

Nothing is written to disk. endpoint-admin holds an API key for people, endpoint-metrics one for Prometheus, and
endpoint-keys the digests of both; other keys are added with jobs/keys.py (docs/runbook.md).
"""

import argparse
import base64
import secrets
import sys
import tempfile
from pathlib import Path

import yaml
from sdavs_serve.http.keys import KeyFile


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--namespace", default="sdavs", help="default: %(default)s")
    parser.add_argument("--only", metavar="NAME", help="print this Secret alone")
    parser.add_argument(
        "--database-password-file",
        type=Path,
        metavar="FILE",
        help="Postgres' password (default: a random one)",
    )
    flags = parser.parse_args()
    password = flags.database_password_file.read_text().strip() if flags.database_password_file else None
    made = make(database_password=password)
    if flags.only and flags.only not in made:
        parser.error(f"--only: there is no Secret {flags.only}; there are: {', '.join(made)}")
    manifests = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": flags.namespace},
            "type": "Opaque",
            "stringData": data,
        }
        for name, data in made.items()
        if flags.only in (None, name)
    ]
    yaml.safe_dump_all(manifests, sys.stdout, sort_keys=False)


def make(*, database_password: str | None = None) -> dict[str, dict[str, str]]:
    """Name -> key -> value of every Secret."""
    with tempfile.TemporaryDirectory() as folder:
        keys = KeyFile(Path(folder) / "keys.json")
        admin = keys.add("admin", note="people")
        metrics = keys.add("admin", note="Prometheus")
        digests = keys.path.read_text()
    return {
        "mlflow-database": {"PGPASSWORD": database_password or _password()},
        "mlflow-admin": {"password": _password()},
        "mlflow-server": {
            "flask-secret-key": _password(),
            # Fernet's form: 32 bytes in URL-safe base64.
            "webhook-encryption-key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        },
        "mlflow-train": {"MLFLOW_TRACKING_USERNAME": "train", "MLFLOW_TRACKING_PASSWORD": _password()},
        "mlflow-serve": {"MLFLOW_TRACKING_USERNAME": "serve", "MLFLOW_TRACKING_PASSWORD": _password()},
        "redis": {"password": _password()},
        "endpoint-keys": {"keys.json": digests},
        "endpoint-admin": {"token": admin},
        "endpoint-metrics": {"token": metrics},
        "endpoint-webhook": {"secret": _password()},
    }


def _password() -> str:
    return secrets.token_urlsafe(32)


if __name__ == "__main__":
    main()
