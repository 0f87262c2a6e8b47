"""One training by `ray job submit` on a cluster of several raylets, to which everything happens in turn.

Two workers on two nodes; one worker hangs; one node is drained and taken away; one is added; one is lost; the job is
stopped; the training resumes.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from running import QUICK_TRAIN, ray_cluster, ray_driver, ray_environment
from sdavs_platform.local import processes
from sdavs_platform.ray_internals import CHECKPOINT_LIST
from sdavs_platform.tracking.client import mlflow_client
from sdavs_platform.tracking.runs import TrainingRun, resolved_yaml
from sdavs_platform.training.run import train
from waiting import patience, wait_until

pytestmark = pytest.mark.timeout(1200)

ROOT = Path(__file__).resolve().parents[2]
EVERY = 20
"""Steps between checkpoints: a checkpoint of any other step was not due."""
HANG_S = round(patience(15))
"""The first steps of a training take seconds; none may be taken for a hang."""
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

    def wait(self, pattern: str) -> re.Match[str]:
        """The next line with the pattern."""
        return wait_until(
            lambda: self._next(pattern),
            what=f"a line with {pattern!r}",
            seconds=240,
            details=lambda: "".join(self.lines[-20:]),
        )

    def _next(self, pattern: str) -> re.Match[str] | None:
        has_ended = not self._reader.is_alive()
        while self.position < len(self.lines):
            self.position += 1
            if found := re.search(pattern, self.lines[self.position - 1]):
                return found
        assert not has_ended, f"ended without {pattern!r}"
        return None

    def last_step(self) -> int:
        """The last step that was logged up to the line waited for."""
        steps = re.findall(r" step (\d+)/", "".join(self.lines[: self.position]))
        return int(steps[-1])

    def end(self) -> None:
        """Return when the command has ended and all its lines are here."""
        self.process.wait(timeout=patience(120))
        self._reader.join()

    def kill(self) -> None:
        """End the command, if it still runs; the job itself ends with its cluster."""
        self.process.kill()
        self.end()


@pytest.fixture(scope="module")
def nodes(make_config: Any) -> Iterator[Any]:
    """A head without room for workers, and two nodes with room for one each."""
    from sdavs_platform.cluster import worker_environment

    quick = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 4,
    }
    head = {
        "num_cpus": 0,
        "include_dashboard": True,
        # Ray's usual ones may be another cluster's on this machine; the agent is who starts jobs.
        "dashboard_port": processes.next_free(8300),
        "dashboard_agent_listen_port": processes.next_free(52400),
        "_system_config": quick,
    }
    with ray_environment(), ray_cluster(nodes=2, forks=True, **head) as cluster, ExitStack() as ending:
        cluster.spare = list(cluster.worker_nodes)
        variables = worker_environment(make_config("any")) | {"RAY_ADDRESS": cluster.address}
        ending.enter_context(ray_driver(cluster.address, runtime_env={"env_vars": variables}))
        is_over = threading.Event()
        refreshing = threading.Thread(target=refresh_resources, args=(is_over,), daemon=True)
        refreshing.start()
        ending.callback(refreshing.join)
        ending.callback(is_over.set)
        yield cluster


def refresh_resources(is_over: threading.Event) -> None:
    """Ray Train learns what nodes there are every 20 seconds; here every second, or most of the test is waiting."""
    import ray

    while not is_over.wait(1):
        with contextlib.suppress(ValueError, ray.exceptions.RayError):  # no training yet
            coordinator = ray.get_actor("AutoscalingCoordinator", namespace="AutoscalingCoordinator")
            ray.get(coordinator.get_reserved_resources.remote("the test", recompute=True))


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
    file = tmp_path_factory.mktemp("nodes") / "config.yaml"
    file.write_text(resolved_yaml(config))
    dashboard = f"http://{nodes.webui_url}"
    environment = {
        "SDAVS_HOME": os.environ["SDAVS_HOME"],
        "RAY_JOB_STOP_WAIT_TIME_S": str(round(patience(60))),
        "RAY_DEDUP_LOGS": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": QUICK_TRAIN["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"],
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(patience(4)),
    }
    wait_until(lambda: takes_jobs(dashboard), what="the head's agent, which starts jobs")
    with ExitStack() as ending:
        job = Job(dashboard, "first", "--config", str(file), environment=environment)
        ending.callback(job.kill)
        seen = watched(job, nodes, config, data)
    budget = config.training.model_copy(update={"max_minutes": 0.001})
    train(config.model_copy(update={"training": budget}), finishes=False)
    return seen


def watched(job: Job, nodes: Any, config: Any, data: Path) -> SimpleNamespace:
    """What happens to the job until it is stopped."""
    from ray.job_submission import JobSubmissionClient

    seen = SimpleNamespace()
    seen.begun = job.wait(STARTED)
    job.wait(f" step {EVERY + 5}/")

    seen.hung = hang_a_worker(job, data)
    seen.after_hang = job.wait(STARTED)
    job.wait(" step ")

    drain(nodes, nodes.spare[-1])
    job.wait("PreemptedError")
    nodes.remove_node(nodes.spare.pop(), allow_graceful=False)
    seen.after_drain = job.wait(STARTED)
    seen.step_before_drain = job.last_step()
    nodes.spare.append(nodes.add_node(wait=False, num_cpus=1))
    seen.after_growth = job.wait(STARTED)
    job.wait(" step ")

    nodes.remove_node(nodes.spare.pop(), allow_graceful=False)
    seen.after_loss = job.wait(STARTED)
    seen.step_before_loss = job.last_step()
    job.wait(" step ")

    JobSubmissionClient(job.dashboard).stop_job("first")
    job.end()
    seen.stopped_status = JobSubmissionClient(job.dashboard).get_job_status("first")
    job.position = len(job.lines)
    seen.step_before_stop = job.last_step()
    seen.run = TrainingRun.find("nodes", storage=config.storage.uri, uri=config.tracking.uri)
    seen.stopped_run = seen.run.client.get_run(seen.run.run_id).info.status
    seen.newest = newest_step(config)
    return seen


def takes_jobs(dashboard: str) -> bool:
    """Whether the head's agent is known to the dashboard."""
    from ray.job_submission import JobSubmissionClient

    try:
        JobSubmissionClient(dashboard).submit_job(entrypoint="true")
    except RuntimeError:
        return False
    return True


def hang_a_worker(job: Job, data: Path) -> re.Match[str]:
    """A frame that cannot be read to its end, as on a network disk that has gone away: a pipe nobody writes to."""
    frame = sorted((data / "Multi-sources/ms3_data/visual_frames").glob("train_*/*_2.png"))[0]
    content = frame.read_bytes()
    frame.unlink()
    os.mkfifo(frame)
    try:
        return job.wait(rf"no step for {HANG_S} s: worker (\d) is stuck in (\S+) .*Stacks of all: (\S+) and")
    finally:
        frame.unlink()
        frame.write_bytes(content)


def drain(nodes: Any, node: Any) -> None:
    """What a cloud's notice becomes: this node ends soon."""
    command = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", nodes.address]
    command += ["--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "spot", "--deadline-remaining-seconds", str(round(patience(60)))]
    subprocess.run(command, check=True, capture_output=True)


def newest_step(config: Any) -> int:
    known = json.loads((Path(config.storage.uri) / config.name / CHECKPOINT_LIST).read_text())
    return known["latest_checkpoint_result"]["metrics"]["step"]


def test_a_worker_that_hangs_is_named_with_the_stacks_of_all_and_training_continues(story, config):
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


def test_a_lost_node_costs_the_steps_since_the_newest_checkpoint_and_one_worker_continues(story):
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


def test_the_same_training_resumes_at_the_next_step_and_every_step_was_logged_once(story, config):
    assert newest_step(config) == story.newest + 1
    client = mlflow_client(config.tracking.uri)
    steps = [point.step for point in client.get_metric_history(story.run.run_id, "train/loss")]
    assert steps == list(range(1, newest_step(config) + 1))
    assert client.get_run(story.run.run_id).info.status == "FINISHED"
