"""One name, one training: a second command is refused, a dead holder's lease is free, and a lease can be taken over."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sdavs_platform.storage.filesystem import Storage
from sdavs_platform.tracking.client import mlflow_client
from sdavs_platform.training.faults.lease import LEASE_FILE, Lease, _this_process, _written
from sdavs_platform.training.run import _fit, train
from waiting import patience, wait_until

pytestmark = pytest.mark.slow

QUICK = {"renew_s": 0.1, "expire_s": 1.0}


@pytest.fixture
def held(tmp_path: Path):
    lease = Lease(str(tmp_path), "run", **QUICK)
    lease.acquire()
    yield lease
    lease.release()


def left_by(folder: Path, holder) -> None:
    (folder / "run").mkdir()
    (folder / "run" / LEASE_FILE).write_bytes(_written(holder))


def test_a_second_command_is_refused_with_who_trains_and_since_when(held, tmp_path):
    elsewhere = replace(held._holder, host="elsewhere")
    held._holder = elsewhere
    Storage(str(tmp_path / "run"), field="storage.uri").write(LEASE_FILE, _written(elsewhere))
    with pytest.raises(
        ValueError, match=rf"'run' is already being trained by {elsewhere.user} on elsewhere \(process"
    ):
        Lease(str(tmp_path), "run", **QUICK).acquire()


def test_a_training_of_a_name_that_is_being_trained_is_refused_in_a_failed_run(make_config):
    config = make_config("taken")
    lease = Lease(config.storage.uri, config.name, renew_s=0.1)
    lease.acquire()
    with pytest.raises(
        ValueError, match=r"name: 'taken' is already being trained by .* or stop it with --take-over"
    ):
        train(config)
    lease.release()
    client = mlflow_client(config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    refused = client.search_runs([experiment.experiment_id], "run_name = 'refused'", max_results=1)[0]
    assert refused.info.status == "FAILED"
    assert "'taken' is already being trained" in refused.data.tags["error"]


def test_a_lease_given_back_is_free_at_once(tmp_path):
    for _ in range(2):
        lease = Lease(str(tmp_path), "run")
        lease.acquire()
        lease.release()
    assert not (tmp_path / "run" / LEASE_FILE).exists()


def test_the_lease_of_a_process_of_this_machine_that_has_ended_is_free_at_once(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    left_by(tmp_path, replace(_this_process(), pid=int(done.stdout)))
    lease = Lease(str(tmp_path), "run", expire_s=1000)
    lease.acquire()
    lease.release()


def test_a_process_with_the_number_of_an_ended_one_is_not_taken_for_it(tmp_path):
    left_by(tmp_path, replace(_this_process(), process_started=1.0))
    lease = Lease(str(tmp_path), "run", expire_s=1000)
    lease.acquire()
    lease.release()


def test_a_lease_of_another_machine_is_free_when_it_is_not_renewed(tmp_path):
    left_by(tmp_path, replace(_this_process(), host="elsewhere"))
    lease = Lease(str(tmp_path), "run", **QUICK)
    lease.acquire()
    assert json.loads((tmp_path / "run" / LEASE_FILE).read_text())["host"] == lease._holder.host
    lease.release()


def test_a_holder_learns_that_its_lease_was_taken_over_and_leaves_the_new_one_alone(held, tmp_path):
    lost = threading.Event()
    held.on_lost = lost.set
    other = Lease(str(tmp_path), "run", takes_over=True, **QUICK)
    other.acquire()
    assert lost.wait(patience(30))
    assert held.is_lost
    held.release()
    assert (tmp_path / "run" / LEASE_FILE).exists()
    assert not other.is_lost
    other.release()


def test_the_lease_of_a_dead_command_of_another_machine_is_taken_over_without_waiting(tmp_path):
    left_by(tmp_path, replace(_this_process(), host="elsewhere"))
    lease = Lease(str(tmp_path), "run", takes_over=True, renew_s=0.1, expire_s=1000)
    lease.acquire()
    before = lease._holder.renewals
    wait_until(lambda: lease._holder.renewals > before, what="the lease to be renewed")
    assert not lease.is_lost
    lease.release()
    assert not (tmp_path / "run" / LEASE_FILE).exists()


def test_of_many_commands_at_once_one_gets_the_lease(tmp_path):
    storage = Storage(str(tmp_path), field="storage.uri")
    assert number_of_winners(storage, expected=None) == 1
    before = storage.read("file")
    assert number_of_winners(storage, expected=before) == 1
    assert not storage.delete_if("file", expected=before)
    assert storage.delete_if("file", expected=storage.read("file"))
    assert storage.read("file") is None


def test_a_write_that_the_server_refused_or_whose_reply_was_lost_costs_no_lease(tmp_path, monkeypatch):
    """S3 refuses a conditional write with 409 while it is busy with the object, and boto3 repeats a request whose reply
    did not come, which the condition then refuses."""
    lease = Lease(str(tmp_path), "run", renew_s=1000)
    written = lease._storage.replace
    monkeypatch.setattr(lease._storage, "replace", lambda *a, **k: written(*a, **k) and False)
    lease.acquire()
    assert lease._renew()
    monkeypatch.setattr(lease._storage, "replace", lambda *a, **k: False)
    assert lease._renew()
    assert json.loads((tmp_path / "run" / LEASE_FILE).read_text())["renewals"] == 1
    lease.release()
    assert not (tmp_path / "run" / LEASE_FILE).exists()


def test_a_lease_that_was_lost_before_the_workers_start_ends_the_training(make_config, tmp_path):
    """As a command that waits for resources while another one takes over."""
    lease = Lease(str(tmp_path), "run", **QUICK)
    lease.is_lost = True
    with pytest.raises(RuntimeError, match="name: another command has taken over 'run'"):
        _fit(
            make_config("run"),
            SimpleNamespace(uri="", run_id="1"),
            lease,
            shared={},
            callbacks=(),
            start_from=None,
        )


def number_of_winners(storage: Storage, *, expected: bytes | None) -> int:
    """Eight threads replace the same file at once; how many succeed?"""
    start, won = threading.Barrier(8), []

    def write(number: int) -> None:
        start.wait()
        if storage.replace("file", f"{os.urandom(4)!r} {number}".encode(), expected=expected):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(won)


def test_a_storage_that_is_away_for_a_while_costs_no_lease(held, tmp_path, monkeypatch):
    def away(*_: object, **__: object) -> bool:
        raise ValueError("away")

    with monkeypatch.context() as patch:
        patch.setattr(held._storage, "replace", away)
        wait_until(lambda: held._thread.is_alive(), what="the lease to be kept")
    before = held._holder.renewals
    wait_until(lambda: held._holder.renewals > before, what="the lease to be renewed")
    assert not held.is_lost
    assert json.loads((tmp_path / "run" / LEASE_FILE).read_text()).keys() == asdict(held._holder).keys()
