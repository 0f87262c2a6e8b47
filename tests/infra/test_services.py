"""`make services`: MLflow on a real Postgres with its artifacts on a server that speaks S3, and their orderly end."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import psycopg2
import pytest
from sdavs_platform.local import postgres, processes, state
from sdavs_platform.local.state import StackState
from sdavs_platform.tracking import registry
from sdavs_platform.tracking.client import mlflow_client

from sdavs_model import SDAVSConfig, build_model, load_artifact, save_artifact

ROOT = Path(__file__).resolve().parents[2]
TINY = SDAVSConfig(backbone="test_resnet", image_size=32, width=16, num_heads=2, vggish_width=0.125)

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("SDAVS_TEST_POSTGRES"), reason="half a minute; `make infra-check` runs it"
    ),
    pytest.mark.skipif(
        not any(postgres.PACKAGES.glob("*/bin/postgres")),
        reason="no Postgres server is installed (Debian: postgresql)",
    ),
]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A state folder that Postgres's own user can reach, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="services-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        stop(folder)
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def environment(home: Path) -> Iterator[dict[str, str]]:
    """What the command printed, set here: as a user who exports it."""
    printed = start(home).stdout.splitlines()
    exported = dict(line.removeprefix("export ").split("=", 1) for line in printed)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in exported.items():
            patch.setenv(name, value)
        yield exported


def start(home: Path) -> subprocess.CompletedProcess[str]:
    ports = [processes.next_free(first) for first in (15000, 15432, 19500)]
    flags = zip(("--mlflow-port", "--postgres-port", "--s3-port"), map(str, ports), strict=True)
    command = [sys.executable, "jobs/services.py", *(word for flag in flags for word in flag)]
    own = os.environ | {"SDAVS_HOME": str(home)}
    return subprocess.run(command, cwd=ROOT, env=own, check=True, capture_output=True, text=True)


def stop(home: Path) -> str:
    command = [sys.executable, "jobs/demo.py", "--stop"]
    own = os.environ | {"SDAVS_HOME": str(home)}
    return subprocess.run(command, cwd=ROOT, env=own, check=True, capture_output=True, text=True).stdout


def test_a_registered_model_is_found_by_alias_and_comes_back_through_the_server(environment, home, tmp_path):
    uri = environment["MLFLOW_TRACKING_URI"]
    client = mlflow_client(uri)
    run = client.create_run(client.create_experiment("services"))
    folder = tmp_path / "made"
    save_artifact(folder, model=build_model(TINY), classes=["background", "sound"], metrics={}, lineage={})
    registry.register_artifact(folder, name="m", config=TINY, run_id=run.info.run_id, tags={}, uri=uri)
    assert registry.promote("m", "latest", uri=uri) == 1

    # Whoever downloads needs the server's address only.
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ENDPOINT_URL", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.delenv(name)
        fetched = registry.fetch("models:/m@champion", uri=uri, cache=tmp_path / "cache")
    assert load_artifact(fetched).config == TINY
    kept = [one["Key"] for one in boto3.client("s3").list_objects_v2(Bucket="mlflow")["Contents"]]
    assert any(key.endswith("model.safetensors") for key in kept)


def test_neither_server_lets_anybody_in_without_its_keys(environment, home):
    known = state.read(home)
    assert known.postgres
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(host="127.0.0.1", port=known.postgres.port, user="mlflow", password="guessed")
    unknown = boto3.client("s3", aws_access_key_id="guessed", aws_secret_access_key="guessed")
    with pytest.raises(unknown.exceptions.ClientError, match="InvalidAccessKeyId"):
        unknown.list_objects_v2(Bucket="mlflow")
    keys = [home / "services" / name for name in ("keys.json", "aws_credentials")]
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}


def test_a_second_start_reuses_all_and_a_stop_ends_all_and_keeps_what_was_registered(environment, home):
    first = state.read(home)
    assert dict(line[7:].split("=", 1) for line in start(home).stdout.splitlines()) == environment
    assert state.read(home) == first
    assert stop(home).count("stopping") == 3
    assert state.read(home) == StackState()
    for server in (first.mlflow, first.postgres, first.object_store):
        assert server
        assert server.service
        assert not server.service.is_alive()
    again = dict(line[7:].split("=", 1) for line in start(home).stdout.splitlines())
    version = registry.resolve("models:/m@champion", uri=again["MLFLOW_TRACKING_URI"])
    assert version.version == 1
