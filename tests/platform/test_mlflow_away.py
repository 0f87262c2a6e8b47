"""MLflow that does not respond, deleted runs and experiments: one line each, and no result is lost."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import mlflow_database
from sdavs_platform.tracking import client, registry
from sdavs_platform.tracking.client import (
    experiment_id,
    log_or_warn,
    mlflow_client,
    quoted,
    require_mlflow,
    unreachable,
)
from sdavs_platform.tracking.runs import TrainingRun
from waiting import patience

from sdavs_model import SDAVSConfig, build_model, save_artifact

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TINY = SDAVSConfig(backbone="resnet10t", image_size=32, width=16, num_heads=2, vggish_width=0.125)
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens there


@pytest.fixture
def server() -> Iterator[tuple[str, list[int]]]:
    """The address of a web server, and the statuses that it gives one after another; the last one stays."""
    statuses = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", statuses
        httpd.shutdown()


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow database that is there."""
    return mlflow_database(tmp_path_factory.mktemp("mlflow"))


def test_a_server_that_responds_at_all_is_available_and_a_proxy_without_a_server_is_not(server):
    address, statuses = server
    for status, reason in ((200, None), (401, None), (404, None), (502, "status 502"), (503, "status 503")):
        statuses[:] = [status]
        assert unreachable(address) == reason
    assert unreachable(NOWHERE) == "no connection"
    assert "refused" in str(unreachable("postgresql+psycopg2://user:secret@127.0.0.1:9/mlflow"))
    assert unreachable("sqlite:////anywhere/mlflow.db") is None


def test_a_server_that_accepts_and_does_not_respond_counts_as_unavailable(monkeypatch):

    monkeypatch.setattr(client, "_ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}") == "no answer within 0.2 s"


def test_a_command_warns_at_once_and_continues_when_mlflow_is_back(server, caplog, monkeypatch):
    address, statuses = server
    monkeypatch.setattr(client, "_RETRY_S", 0.01)
    statuses[:] = [503, 503, 200]
    require_mlflow(address)
    assert caplog.messages == [f"MLflow at {address} does not respond (status 503); trying again for 60 s"]


def test_a_command_gives_up_in_one_line_without_the_password(caplog, monkeypatch):
    monkeypatch.setattr(client, "PATIENCE_S", 0.0)
    address = NOWHERE.replace("//", "//user:secret@")
    with pytest.raises(
        ValueError, match=r"tracking.uri: MLflow at http://127.0.0.1:9 does not respond: no conn"
    ):
        require_mlflow(address)
    with pytest.raises(ValueError, match="does not respond"):
        TrainingRun.find("any", storage="s", uri=address)
    assert "secret" not in caplog.text


def test_the_users_own_mistake_is_shown_before_anything_else_when_mlflow_is_away(tmp_path):
    environment = {"MLFLOW_TRACKING_URI": NOWHERE, "SDAVS_HOME": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "jobs/train.py", "--training.epoch", "3"],
        cwd=ROOT,
        env=_environment(environment),
        capture_output=True,
        text=True,
        timeout=patience(150),
    )
    assert ran.returncode == 2
    (mistake,) = ran.stderr.strip().splitlines()
    assert "training.epoch: unknown key; did you mean training.epochs?" in mistake
    assert "the refusal could not be logged to MLflow" in ran.stdout


def _environment(changes: dict[str, str]) -> dict[str, str]:

    return os.environ | changes


def test_a_deleted_experiment_is_named_with_the_way_to_restore_it(uri):
    deleting = mlflow_client(uri)
    number = experiment_id(deleting, "old")
    deleting.delete_experiment(number)
    with pytest.raises(
        ValueError, match=rf"'old' is deleted .* --experiment-id {number}\) or choose another"
    ):
        experiment_id(deleting, "old")


def test_results_are_kept_when_they_cannot_be_logged(caplog, uri):
    def fail() -> None:
        raise RuntimeError("no such run\nand a long trace")

    assert not log_or_warn("the figures", fail, uri=uri)
    assert caplog.messages[0].endswith("mlflow.db: no such run")
    assert not log_or_warn("the figures", lambda: pytest.fail("tried"), uri=NOWHERE)
    assert "no connection" in caplog.messages[1]


def test_names_with_quotes_can_be_searched(uri, make_config):
    config = make_config("quotes")
    for storage in ("/data/it's here", '/data/"here"', """/data/it's "here\""""):
        run = TrainingRun.open(config, uri=uri, storage=storage, has_checkpoints=False)
        found = TrainingRun.find("quotes", storage=storage, uri=uri)
        assert found is not None
        assert found.run_id == run.run_id
    with pytest.raises(ValueError, match="both kinds of quotes"):
        quoted("""it's "here\"""")


def test_the_data_set_is_shown_among_the_inputs_of_a_run(uri, make_config):
    run = TrainingRun.open(make_config("inputs"), uri=uri, storage="somewhere", has_checkpoints=False)
    for _ in range(2):
        run.log_dataset("s3://bucket/realav", digest="d1" * 32)
    (given,) = mlflow_client(uri).get_run(run.run_id).inputs.dataset_inputs
    dataset = given.dataset
    assert (dataset.name, dataset.digest, dataset.source_type) == ("realav", "d1" * 18, "s3")
    assert json.loads(dataset.source) == {"uri": "s3://bucket/realav"}


def test_a_model_whose_run_was_deleted_is_evaluated_and_printed_with_a_warning(
    uri, tmp_path, data, make_config
):
    run = TrainingRun.open(make_config("deleted"), uri=uri, storage="nowhere", has_checkpoints=False)
    folder = tmp_path / "artifact"
    save_artifact(
        folder, model=build_model(TINY), classes=["background", "sounding object"], metrics={}, lineage={}
    )
    registry.register_artifact(folder, name="m", config=TINY, run_id=run.run_id, tags={}, uri=uri)
    mlflow_client(uri).delete_run(run.run_id)
    command = [sys.executable, "jobs/evaluate.py", "--model", "models:/m/1", "--data", str(data), "--json"]
    command += ["--split", "test_strict", "--tracking-uri", uri]
    ran = subprocess.run(
        command, cwd=ROOT, env=_environment({"SDAVS_HOME": str(tmp_path)}), capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert 0 <= json.loads(ran.stdout)["splits"]["test_strict"]["right audio"]["miou"] <= 1
    assert "warning: the figures could not be logged to MLflow" in ran.stderr
    assert "Traceback" not in ran.stderr
