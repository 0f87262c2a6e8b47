"""What runs and ran: MLflow runs and a cluster's jobs put together. `tests/test_local_stack.py` has a real cluster."""

import os
import socket
import subprocess

import pytest
from databases import mlflow_database
from sdavs_platform.operations import Entry, RayJobs, details, find, overview, stop
from sdavs_platform.ray_internals import CHECKPOINT_LIST
from sdavs_platform.tracking.runs import PROCESS_TAG, TrainingRun
from waiting import patience

pytestmark = pytest.mark.slow

NOWHERE = RayJobs("http://127.0.0.1:9")


@pytest.fixture
def opened(make_config, tmp_path):
    """Opens an MLflow run, with its config; keywords are tags."""

    uri = mlflow_database(tmp_path)

    def open_run(name: str, **tags: str) -> TrainingRun:
        config = make_config(name, tracking={"uri": uri})
        run = TrainingRun.open(
            config, uri=config.tracking.uri, storage=config.storage.uri, has_checkpoints=False
        )
        run.set_tags(tags)
        return run

    return open_run


def driver(number: int, **values: str) -> dict:
    job = {"status": "RUNNING", "entrypoint": "python jobs/train.py", "job_id": "02000000"}
    return job | {"driver_info": {"node_ip_address": "10.0.0.1", "pid": str(number)}} | values


def test_a_run_is_joined_with_the_job_of_its_process(opened):
    run = opened("mine")
    run.record_process("10.0.0.1")
    run.set_tags({PROCESS_TAG: "10.0.0.1:77", "sdavs.host": "elsewhere"})
    jobs = [driver(77, submission_id="raysubmit_a"), driver(78, submission_id="raysubmit_b")]
    other, entry = overview(uri=run.uri, jobs=jobs)
    assert (entry.name, entry.kind, entry.state, entry.job) == ("mine", "training", "running", "raysubmit_a")
    assert (other.kind, other.job, other.name) == ("job", "raysubmit_b", "python jobs/train.py")


def test_a_run_whose_process_has_ended_without_a_word_is_lost(opened):
    run = opened("mine")
    gone = subprocess.Popen(["true"])
    gone.wait()
    run.record_process("10.0.0.1")
    run.set_tags({PROCESS_TAG: f"10.0.0.1:{gone.pid}"})
    (entry,) = overview(uri=run.uri, jobs=[])
    assert entry.state == "lost"
    assert entry.process == f"{socket.gethostname()}:{gone.pid}"


def test_trials_are_listed_on_demand_and_the_newest_comes_first(opened):
    opened("first").finish()
    opened("second").fail("no space left")
    uri = opened("trial", **{"mlflow.parentRunId": "1"}).uri
    assert [each.name for each in overview(uri=uri, jobs=[])] == ["second", "first"]
    assert [each.name for each in overview(uri=uri, jobs=[], limit=1)] == ["second"]
    listed = overview(uri=uri, jobs=[], trials=True)
    assert [(each.name, each.kind, each.state) for each in listed[:2]] == [
        ("trial", "trial", "running"),
        ("second", "training", "failed"),
    ]
    assert listed[1].error == "no space left"


def test_an_entry_is_found_by_name_run_id_and_job():
    entries = [
        Entry(name="a", kind="training", state="running", run_id="0123456789", job="raysubmit_1"),
        Entry(name="b", kind="training", state="running", run_id="9876543210"),
    ]
    assert find("b", entries) is find("987654", entries) is entries[1]
    assert find("raysubmit_1", entries) is entries[0]
    with pytest.raises(ValueError, match="no run, sweep or job 'c'"):
        find("c", entries)


def test_only_what_runs_within_reach_is_stopped():
    with pytest.raises(ValueError, match="a is not running; it is finished"):
        stop(Entry(name="a", kind="training", state="finished"), NOWHERE)
    far = Entry(name="a", kind="training", state="running", process="elsewhere:12", job="02000000")
    with pytest.raises(ValueError, match="a is process 12 on elsewhere, not a submitted job; end it there"):
        stop(far, NOWHERE)


def test_a_driver_on_this_machine_is_stopped_by_sigterm(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import time\ntime.sleep(600)\n")
    process = subprocess.Popen(["python3", str(script)])
    try:
        here = f"{socket.gethostname()}:{process.pid}"
        stop(Entry(name="a", kind="training", state="running", process=here), NOWHERE)
        assert process.wait(timeout=patience(60)) == -15
    finally:
        process.kill()
    mine = f"{socket.gethostname()}:{os.getpid()}"  # a process, but none of a job
    with pytest.raises(ValueError, match="end it there"):
        stop(Entry(name="a", kind="training", state="running", process=mine), NOWHERE)


def test_details_name_the_checkpoints_in_the_storage(tmp_path):
    (tmp_path / "a" / "checkpoint_000001").mkdir(parents=True)
    (tmp_path / "a" / "checkpoint_000001" / "weights").write_text("1")
    shown = details(Entry(name="a", kind="training", state="failed"), storage=str(tmp_path))
    assert shown["checkpoints"] == ["checkpoint_000001"]
    assert shown["resumable"] is False
    (tmp_path / "a" / CHECKPOINT_LIST).write_text("{}")  # its name begins like theirs
    shown = details(Entry(name="a", kind="training", state="failed"), storage=str(tmp_path))
    assert shown["checkpoints"] == ["checkpoint_000001"]
    assert shown["resumable"] is True


def test_without_a_dashboard_the_address_is_named():
    with pytest.raises(ConnectionError, match=r"no Ray dashboard responds at http://127\.0\.0\.1:9"):
        NOWHERE.all()
