"""The MLflow server as deployed, on a real Postgres: users, proxied artifacts, webhook, backup and restore."""

import http.server
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import make_secrets
import pytest
import requests
import yaml
from sdavs_platform.local import postgres
from sdavs_serve.http.webhook import check_signature
from starlette.datastructures import Headers
from waiting import patience, wait_until

ROOT = Path(__file__).resolve().parents[2]
MLFLOW = ROOT / "infra" / "mlflow"
BINARIES = max(postgres.PACKAGES.glob("*/bin/postgres"), default=None)

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("SDAVS_TEST_POSTGRES"), reason="half a minute; `make infra-check` runs it"
    ),
    pytest.mark.skipif(BINARIES is None, reason="no Postgres server is installed (Debian: postgresql)"),
]


class Site:
    """A Postgres server, an MLflow server on it, and a listener in the endpoint's place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets = make_secrets.make()
        self.database_port, self.port = free_port(), free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.webhooks: list[tuple[dict, bytes]] = []
        self.listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self.listener.serve_forever, daemon=True).start()
        self.environment = os.environ | {
            "PATH": f"{BINARIES.parent}:{os.environ['PATH']}",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.database_port),
            "PGUSER": "mlflow",
            "PGPASSWORD": self.secrets["mlflow-database"]["PGPASSWORD"],
            "MLFLOW_TRACKING_URI": self.uri,
        }
        self.server: subprocess.Popen | None = None

    def start_postgres(self) -> None:
        self.folder.chmod(0o755)  # for its user
        where = {"folder": self.folder / "postgres", "port": self.database_port}
        password = self.environment["PGPASSWORD"]
        service = postgres.start(**where, password=password)
        postgres.wait(service, **where, password=password)

    def stop_postgres(self) -> None:
        postgres.stop(self.folder / "postgres")

    def script(self, name: str, *arguments: object) -> str:
        """Run one of infra/mlflow/*.sh."""
        command = ["sh", MLFLOW / name, *(str(argument) for argument in arguments)]
        ran = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=patience(120)
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def start_mlflow(self) -> None:
        """With the very arguments of the manifest, on another address."""
        deployment = next(
            d for d in yaml.safe_load_all((MLFLOW / "mlflow.yaml").read_text()) if d["kind"] == "Deployment"
        )
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        replaced = {
            "--host=0.0.0.0": "--host=127.0.0.1",
            "--port=5000": f"--port={self.port}",
            "--workers=2": "--workers=1",
        }
        words = [replaced.get(word, word) for word in container["args"][1:]]
        given = {entry["name"]: entry.get("value") or self._secret(entry) for entry in container["env"]}
        own = {
            "MLFLOW_AUTH_CONFIG_PATH": str(MLFLOW / "basic_auth.ini"),
            "MLFLOW_ARTIFACTS_DESTINATION": str(self.folder / "artifacts"),
            "MLFLOW_SERVER_ALLOWED_HOSTS": "127.0.0.1:*",
        }
        log = (self.folder / "mlflow.log").open("a")
        self.server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            env=self.environment | given | own,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def _secret(self, entry: dict) -> str:
        reference = entry["valueFrom"]["secretKeyRef"]
        return self.secrets[reference["name"]][reference["key"]]

    def stop_mlflow(self) -> None:
        if self.server:
            os.killpg(self.server.pid, 15)
            self.server.wait(patience(30))

    def configure(self) -> str:
        """Run the Job that makes users and webhook."""
        own = {
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self.secrets["mlflow-admin"]["password"],
            "TRAIN_PASSWORD": self.secrets["mlflow-train"]["MLFLOW_TRACKING_PASSWORD"],
            "SERVE_PASSWORD": self.secrets["mlflow-serve"]["MLFLOW_TRACKING_PASSWORD"],
            "WEBHOOK_SECRET": self.secrets["endpoint-webhook"]["secret"],
            "WEBHOOK_URL": f"http://127.0.0.1:{self.listener.server_port}/v1/rollout/nudge",
        }
        command = [sys.executable, MLFLOW / "configure.py"]
        ran = subprocess.run(
            command, env=self.environment | own, capture_output=True, text=True, timeout=patience(300)
        )
        assert ran.returncode == 0, ran.stderr + (self.folder / "mlflow.log").read_text()[-3000:]
        return ran.stdout

    def call(self, user: str, method: str, path: str, **body: object) -> requests.Response:
        name = "mlflow-admin" if user == "admin" else f"mlflow-{user}"
        passwords = self.secrets[name]
        credentials = (user, passwords.get("password") or passwords["MLFLOW_TRACKING_PASSWORD"])
        url = f"{self.uri}/api/2.0/mlflow/{path}"
        sent = {"params": body} if method == "GET" else {"json": body}
        return requests.request(method, url, auth=credentials, timeout=patience(60), **sent)

    def alias(self) -> str | None:
        answer = self.call("train", "GET", "registered-models/alias", name="sdavs", alias="champion")
        return answer.json()["model_version"]["version"] if answer.ok else None

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        received = self.webhooks

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(202)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    made = Site(folder)
    try:
        made.start_postgres()
        made.script("create_databases.sh")
        made.start_mlflow()
        first, again = made.configure(), made.configure()
        assert "made the user train" in first
        assert "made" not in again
        yield made
    finally:
        made.stop_mlflow()
        made.stop_postgres()
        made.listener.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def run(site: Site) -> str:
    """A run of the training's user, with an artifact and a registered version."""
    experiment = site.call("train", "POST", "experiments/create", name="sdavs").json()["experiment_id"]
    answer = site.call(
        "train", "POST", "runs/create", experiment_id=experiment, start_time=int(time.time() * 1000)
    )
    info = answer.json()["run"]["info"]
    made = {"name": "sdavs", "source": info["artifact_uri"], "run_id": info["run_id"]}
    version = site.call("train", "POST", "model-versions/create", **made)
    assert version.status_code == 200, version.text
    return info["run_id"]


def test_nobody_comes_in_without_a_password_or_under_another_name(site: Site, run: str):
    url = f"{site.uri}/api/2.0/mlflow/registered-models/get?name=sdavs"
    assert requests.get(url, timeout=patience(30)).status_code == 401
    assert requests.get(url, auth=("train", "wrong"), timeout=patience(30)).status_code == 401
    assert requests.get(url, headers={"Host": "evil.example.com"}, timeout=patience(30)).status_code == 403
    # The probes of Kubernetes need neither.
    assert (
        requests.get(
            f"{site.uri}/health", headers={"Host": "10.0.0.7:5000"}, timeout=patience(30)
        ).status_code
        == 200
    )


def test_artifacts_go_through_the_server_without_keys_to_the_storage(site: Site, run: str, tmp_path):
    passwords = site.secrets["mlflow-train"]
    credentials = (passwords["MLFLOW_TRACKING_USERNAME"], passwords["MLFLOW_TRACKING_PASSWORD"])
    info = site.call("train", "GET", "runs/get", run_id=run).json()["run"]["info"]
    assert info["artifact_uri"].startswith("mlflow-artifacts:/")
    place = info["artifact_uri"].removeprefix("mlflow-artifacts:/").lstrip("/")
    path = f"{site.uri}/api/2.0/mlflow-artifacts/artifacts/{place}/note.txt"
    assert requests.put(path, data=b"kept", auth=credentials, timeout=patience(30)).status_code == 200
    assert requests.get(path, auth=credentials, timeout=patience(30)).content == b"kept"
    assert requests.get(path, timeout=patience(30)).status_code == 401
    assert list((site.folder / "artifacts").rglob("note.txt"))


def test_jobs_may_edit_the_model_and_nothing_of_the_servers_own(site: Site, run: str):
    tag = {"name": "sdavs", "version": "1", "key": "rollout", "value": "served"}
    assert site.call("serve", "POST", "model-versions/set-tag", **tag).status_code == 200
    assert site.call("serve", "POST", "runs/set-tag", run_id=run, key="a", value="b").status_code == 403
    assert site.call("train", "DELETE", "registered-models/delete", name="sdavs").status_code == 403
    events = [{"entity": "REGISTERED_MODEL", "action": "CREATED"}]
    hook = {"name": "mine", "url": "http://127.0.0.1:1/", "events": events}
    for user in ("train", "serve"):
        assert site.call(user, "POST", "webhooks", **hook).status_code == 403


def test_moving_the_alias_calls_the_endpoint_with_a_signature_that_it_accepts(site: Site, run: str, tmp_path):
    answer = site.call(
        "train", "POST", "registered-models/alias", name="sdavs", alias="champion", version="1"
    )
    assert answer.status_code == 200
    wait_until(lambda: site.webhooks, what="MLflow's webhook")
    headers, body = site.webhooks[0]
    (tmp_path / "secret").write_text(site.secrets["endpoint-webhook"]["secret"])
    check_signature(Headers(headers), body, secret_file=tmp_path / "secret")


def test_a_restored_backup_brings_runs_aliases_and_users_back(site: Site, run: str, tmp_path):
    assert site.alias() == "1"
    assert site.script("backup.sh", "dump", tmp_path).count("bytes") == 2
    assert site.call("admin", "DELETE", "registered-models/delete", name="sdavs").status_code == 200
    assert site.alias() is None
    site.stop_mlflow()
    site.script("backup.sh", "restore", tmp_path)
    site.start_mlflow()
    assert site.configure() == ""  # nothing was missing
    assert site.alias() == "1"
    assert site.call("train", "GET", "runs/get", run_id=run).json()["run"]["info"]["run_id"] == run


def test_a_new_password_is_taken_over_and_the_old_one_ends(site: Site, run: str):
    old = dict(site.secrets["mlflow-train"])
    site.secrets["mlflow-train"] = old | {"MLFLOW_TRACKING_PASSWORD": secrets.token_urlsafe(32)}
    assert "changed the password of train" in site.configure()
    assert site.alias() == "1"
    url = f"{site.uri}/api/2.0/mlflow/registered-models/get?name=sdavs"
    assert (
        requests.get(url, auth=("train", old["MLFLOW_TRACKING_PASSWORD"]), timeout=patience(30)).status_code
        == 401
    )


def test_a_damaged_backup_is_refused_before_anything_is_dropped(site: Site, run: str, tmp_path):
    site.script("backup.sh", "dump", tmp_path)
    dump = tmp_path / "mlflow.dump"
    dump.write_bytes(dump.read_bytes()[:100])
    ran = subprocess.run(
        ["sh", MLFLOW / "backup.sh", "restore", tmp_path],
        env=site.environment,
        capture_output=True,
        timeout=patience(60),
    )
    assert ran.returncode != 0
    assert site.alias() == "1"
