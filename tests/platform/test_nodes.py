"""One training by `ray job submit` on a cluster of several raylets, to which everything happens in turn.

Two workers on two nodes; one worker hangs; one node is lost; one is added; one is drained; the job is stopped; the same
command goes on.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sdavs_platform.storage import CHECKPOINT_LIST
from sdavs_platform.tracking.client import mlflow_client
from sdavs_platform.tracking.runs import TrainingRun, resolved_yaml

pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).resolve().parents[2]
EVERY = 20
"""Steps between checkpoints: a checkpoint of any other step was not due."""
HANG_S = 6
STARTED = r"(?:starting|resuming after step (\d+)) \| .* (\d) workers"


class Job:
    """`ray job submit` of jobs/train.py, and what it prints."""

    def __init__(self, dashboard: str, name: str, *arguments: str, environment: dict[str, str]) -> None:
        self.dashboard, self.name = dashboard, name
        self.lines: list[str] = []
        self.position = 0
        command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", dashboard]
        command += ["--submission-id", name, "--runtime-env-json", json.dumps({"env_vars": environment})]
        command += ["--", sys.executable, str(ROOT / "jobs/train.py"), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line)
            print(f"{time.strftime('%X')} {line}", end="")

    def wait(self, pattern: str, *, limit_s: float = 150) -> re.Match[str]:
        """The next line with the pattern."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            while self.position < len(self.lines):
                self.position += 1
                if found := re.search(pattern, self.lines[self.position - 1]):
                    return found
            assert self._reader.is_alive(), f"ended without {pattern!r}"
            time.sleep(0.1)
        raise AssertionError(f"no line with {pattern!r}")

    def last_step(self) -> int:
        """The last step that was told up to the line waited for."""
        told = re.findall(r" step (\d+)/", "".join(self.lines[: self.position]))
        return int(told[-1])

    def exit_code(self) -> int:
        code = self.process.wait(timeout=120)
        self._reader.join()
        return code


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head without room for workers, and two nodes with room for one each."""
    from ray.cluster_utils import Cluster

    quick = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 4,
    }
    changed = {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": None}
    before = {name: os.environ.pop(name, None) for name in changed}
    os.environ["RAY_AUTH_MODE"] = "disabled"
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": True, "_system_config": quick},
    )
    cluster.spare = [cluster.add_node(num_cpus=1) for _ in range(2)]
    yield cluster
    cluster.shutdown()
    os.environ.pop("RAY_AUTH_MODE")
    os.environ.update({name: value for name, value in before.items() if value is not None})


@pytest.fixture(scope="module")
def config(make_config: Any) -> Any:
    """So many epochs that only a time budget ends them."""
    return make_config(
        "nodes",
        model={"backbone": "test_resnet", "image_size": 32, "width": 16, "num_heads": 2},
        training={
            "epochs": 10**6,
            "val_every": 10**6,
            "batch_size": 2,
            "log_every": 1,
            "checkpoint_every": EVERY,
            "hang_seconds": HANG_S,
        },
        data={"test_splits": []},
        cluster={"num_workers": [1, 2], "resize_seconds": 1, "max_failures": 10},
        tracking={"registered_model": None},
    )


@pytest.fixture(scope="module")
def story(nodes: Any, config: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    from ray.job_submission import JobSubmissionClient

    file = tmp_path_factory.mktemp("nodes") / "config.yaml"
    file.write_text(resolved_yaml(config))
    dashboard = f"http://{nodes.webui_url}"
    environment = {
        "SDAVS_HOME": os.environ["SDAVS_HOME"],
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
        "RAY_DEDUP_LOGS": "0",
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "4",
    }
    told = SimpleNamespace()
    await_agent(dashboard)
    job = Job(dashboard, "first", "--config", str(file), environment=environment)
    told.begun = job.wait(STARTED)
    job.wait(f" step {EVERY + 5}/")

    told.hung = hang_a_worker(job, data)
    told.after_hang = job.wait(STARTED)
    job.wait(" step ")

    nodes.remove_node(nodes.spare.pop(), allow_graceful=False)
    told.after_loss = job.wait(STARTED)
    told.step_before_loss = job.last_step()
    nodes.spare.append(nodes.add_node(num_cpus=1))
    told.after_growth = job.wait(STARTED)
    job.wait(" step ")

    drain(nodes, nodes.spare[-1])
    told.after_drain = job.wait(STARTED)
    told.step_before_drain = job.last_step()
    job.wait(" step ")

    JobSubmissionClient(dashboard).stop_job("first")
    told.stopped_code = job.exit_code()
    told.stopped_status = JobSubmissionClient(dashboard).get_job_status("first")
    job.position = len(job.lines)
    told.step_before_stop = job.last_step()
    told.run = TrainingRun.find("nodes", storage=config.storage.uri, uri=config.tracking.uri)
    told.stopped_run = told.run.client.get_run(told.run.run_id).info.status
    told.newest = newest_step(config)

    job = Job(
        dashboard, "second", "--config", str(file), "--training.max_minutes", "0.001", environment=environment
    )
    told.after_stop = job.wait(STARTED)
    told.finished_code = job.exit_code()
    told.log = "".join(job.lines)
    return told


def await_agent(dashboard: str) -> None:
    """Return when the head's agent, which starts jobs, has told the dashboard of itself."""
    from ray.job_submission import JobSubmissionClient

    deadline = time.monotonic() + 60
    while True:
        try:
            JobSubmissionClient(dashboard).submit_job(entrypoint="true")
            return
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def hang_a_worker(job: Job, data: Path) -> re.Match[str]:
    """A frame that cannot be read to its end, as on a network disk that has gone away: a pipe nobody writes to."""
    frame = sorted((data / "Multi-sources/ms3_data/visual_frames").glob("train_*/*_2.png"))[0]
    content = frame.read_bytes()
    frame.unlink()
    os.mkfifo(frame)
    try:
        return job.wait(rf"no step for {HANG_S} s: worker (\d) stands in (\S+) .*Stacks of all: (\S+) and")
    finally:
        frame.unlink()
        frame.write_bytes(content)


def drain(nodes: Any, node: Any) -> None:
    """What a cloud's notice becomes: this node ends in a minute."""
    command = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", nodes.address]
    command += ["--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "spot", "--deadline-remaining-seconds", "60"]
    subprocess.run(command, check=True, capture_output=True)


def newest_step(config: Any) -> int:
    known = json.loads((Path(config.storage.uri) / config.name / CHECKPOINT_LIST).read_text())
    return known["latest_checkpoint_result"]["metrics"]["step"]


def test_a_worker_that_hangs_is_named_with_the_stacks_of_all_and_training_goes_on(story, config):
    rank, function, address = story.hung.groups()
    stacks = {file.name: file.read_text() for file in Path(address).iterdir()}
    assert stacks.keys() == {"rank-0.txt", "rank-1.txt"}
    assert f" in {function}\n" in stacks[f"rank-{rank}.txt"]
    assert "distributed_c10d.py" in stacks[f"rank-{1 - int(rank)}.txt"]
    artifacts = mlflow_client(config.tracking.uri).list_artifacts(
        story.run.run_id, f"stacks/{Path(address).name}"
    )
    assert len(artifacts) == 2
    assert story.after_hang[2] == "2"


def test_a_lost_node_costs_the_steps_since_the_newest_checkpoint_and_one_worker_goes_on(story):
    assert story.begun[2] == "2"
    assert story.after_loss[2] == "1"
    assert 0 <= story.step_before_loss - int(story.after_loss[1] or 0) <= 2 * EVERY


def test_a_node_that_is_added_takes_a_worker(story):
    assert story.after_growth[2] == "2"


def test_a_node_that_is_to_be_taken_away_costs_no_step(story):
    assert story.after_drain[2] == "1"
    assert int(story.after_drain[1]) == story.step_before_drain


def test_a_stopped_job_leaves_a_checkpoint_of_its_last_step_and_a_killed_run(story):
    assert story.stopped_status == "STOPPED"
    assert story.stopped_run == "KILLED"
    assert story.newest >= story.step_before_stop
    assert int(story.after_stop[1]) == story.newest


def test_the_same_command_goes_on_to_the_end_with_every_step_told_once(story, config):
    assert story.finished_code == 0, story.log
    client = mlflow_client(config.tracking.uri)
    steps = [point.step for point in client.get_metric_history(story.run.run_id, "train/loss")]
    assert steps == list(range(1, newest_step(config) + 1))
    assert client.get_run(story.run.run_id).info.status == "FINISHED"
