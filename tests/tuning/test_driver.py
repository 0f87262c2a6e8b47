"""The driver of a sweep on a real Ray cluster, with made-up trainings: bounds, ends, failures, resumes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from rich.console import Console
from running import process
from sdavs_platform.tuning.simulation import made_up_sweep, run_made_up
from sdavs_platform.tuning.store import SweepStore
from waiting import wait_until

HERE = Path(__file__).parent


def quiet(sweep, storage, **options):
    return run_made_up(sweep, storage, max_concurrent=2, console=Console(quiet=True), **options)


def started(address, storage, num_trials=4):
    command = [sys.executable, HERE / "made_up.py", address, storage, str(num_trials), storage / "go"]
    return process(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_a_finished_trial(store):
    wait_until(lambda: any(trial.state == "finished" for trial in store.trials()), what="a finished trial")


def test_a_killed_driver_is_continued_by_the_same_command_without_repeating_a_finished_trial(
    cluster, tmp_path
):
    store = SweepStore(str(tmp_path), "killed")
    with started(cluster, tmp_path):
        wait_for_a_finished_trial(store)
    before = {trial.id: trial for trial in store.trials()}
    assert len(before) < 4
    (tmp_path / "go").touch()
    with started(cluster, tmp_path) as second:
        output, _ = second.communicate()
    assert second.returncode == 0, output
    after = {trial.id: trial for trial in store.trials()}
    assert [trial.state for trial in after.values()] == ["finished"] * 4
    done = [trial for trial in before.values() if trial.state == "finished"]
    assert all(after[trial.id] == trial for trial in done)
    assert all(f"{trial.id}    finished" not in output for trial in done)


def test_an_interrupt_ends_the_sweep_cleanly_and_keeps_finished_trials(cluster, tmp_path):
    store = SweepStore(str(tmp_path), "killed")
    with started(cluster, tmp_path) as driver:
        wait_for_a_finished_trial(store)
        driver.send_signal(signal.SIGTERM)
        output, _ = driver.communicate()
    assert driver.returncode == 0, output
    assert "Traceback" not in output
    states = [trial.state for trial in store.trials()]
    assert "finished" in states
    assert set(states) <= {"finished", "interrupted"}
    assert states.count("finished") < 4


def test_a_trial_that_always_fails_says_why_and_harms_no_other(cluster, tmp_path):
    def refuse(trial):
        if trial == "t0000":
            raise ValueError("this one never works")

    store = quiet(made_up_sweep(num_trials=2, retries=0), tmp_path, before=refuse)
    trials = store.trials()
    assert [trial.state for trial in trials] == ["failed", "finished"]
    assert trials[0].error == "this one never works"


def test_a_trial_whose_process_dies_is_retried(cluster, tmp_path):
    marker = tmp_path / "died"

    def die_once(trial):
        if not marker.exists():
            marker.touch()
            os._exit(1)

    store = quiet(made_up_sweep(num_trials=1), tmp_path, before=die_once)
    assert marker.exists()
    assert [trial.state for trial in store.trials()] == ["finished"]


def test_asha_stops_bad_trials_early_and_a_stopped_trial_is_not_run_again(cluster, tmp_path):
    asha = {"grace_epochs": 1, "reduction_factor": 2}
    sweep = made_up_sweep(num_trials=4, scheduler="asha", asha=asha, seed=1)
    store = quiet(sweep, tmp_path, epochs=4)
    first = store.trials()
    stopped = [trial for trial in first if trial.state == "stopped"]
    assert stopped
    assert all(len(trial.reports) < 4 for trial in stopped)
    best = max(first, key=lambda trial: trial.best["val_miou"])
    assert best.state == "finished"
    assert quiet(sweep, tmp_path, epochs=4).trials() == first


def test_never_more_trials_run_at_once_than_fit(cluster, tmp_path):
    def log(trial):
        (tmp_path / f"{trial}.start").write_text(str(time.time()))

    store = quiet(made_up_sweep(num_trials=3), tmp_path, before=log, epoch_seconds=0.3)
    starts = sorted(float(path.read_text()) for path in tmp_path.glob("*.start"))
    assert len(starts) == 3
    # With two at a time the third begins only after one of the first two has trained its three epochs.
    assert starts[2] - starts[0] > 0.9
    assert all(trial.state == "finished" for trial in store.trials())


def test_a_population_must_fit_into_the_cluster_at_once(cluster, tmp_path):
    sweep = made_up_sweep(num_trials=3, scheduler="pbt")
    with pytest.raises(
        ValueError, match=r"num_trials: a population of 3 .* holds 2 trials at once; allowed: 2 to 2"
    ):
        quiet(sweep, tmp_path)


def test_afterwards_the_cluster_is_as_empty_as_before(cluster):
    wait_until(
        lambda: ray.available_resources().get("CPU") == 2 and not _num_groups(),
        what="both CPUs and no placement group",
        details=lambda: (ray.available_resources(), _num_groups()),
    )


def _num_groups():
    table = ray.util.placement_group_table()
    return sum(group["state"] != "REMOVED" for group in table.values())
