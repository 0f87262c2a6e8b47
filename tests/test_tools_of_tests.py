"""The tests' own tools: waiting, ending what was started, and the line about a missing browser."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from file_order import (
    LONGEST_FIRST,
    SHARE_A_CLUSTER,
    SHARE_A_FORK_SERVER,
    SHARE_AN_ENDPOINT,
    rank_of,
    scope_of,
)
from running import process, ray_cluster, ray_environment
from waiting import patience, slowness, wait_until

TESTS = Path(__file__).resolve().parent


def test_waiting_returns_the_first_result_that_is_true():
    results = iter([0, None, "", "third time", "fourth"])
    assert wait_until(lambda: next(results), what="a result", every=0) == "third time"


def test_a_wait_that_times_out_ends_with_what_was_waited_for_and_the_state_at_the_end():
    with pytest.raises(AssertionError, match=r"waited 0 s for the tide\. low water"):
        wait_until(lambda: False, what="the tide", seconds=0, details=lambda: "low water")


def test_every_limit_grows_with_the_slowness_of_the_machine(request):
    assert slowness() >= 1
    assert patience(10) == pytest.approx(10 * slowness())
    limit = float(request.config.getini("timeout"))
    assert request.node.get_closest_marker("timeout").args[0] == pytest.approx(patience(limit))


def test_files_that_share_a_start_run_together_and_what_takes_longest_comes_first():
    shared = (SHARE_A_CLUSTER, SHARE_A_FORK_SERVER, SHARE_AN_ENDPOINT)
    assert all((TESTS.parent / path).exists() for path in (*LONGEST_FIRST, *itertools.chain(*shared)))
    for together in shared:
        assert {scope_of(f"{file}::test_a") for file in together} == {together[0]}
    assert scope_of("tests/data/test_masks.py::test_a[1]") == "tests/data/test_masks.py"
    ids = ["tests/data/test_masks.py::test_a", "tests/serve/test_page.py::a", f"{SHARE_A_CLUSTER[1]}::test_a"]
    assert sorted(ids, key=rank_of) == ids[::-1]


def test_a_process_is_killed_with_its_children_when_the_test_fails():
    program = (
        "import subprocess, time; print(subprocess.Popen(['sleep', '323']).pid, flush=True); time.sleep(323)"
    )
    started = []

    def fail() -> None:
        with process([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
            started.extend([parent.pid, int(parent.stdout.readline())])
            raise AssertionError

    with pytest.raises(AssertionError):
        fail()
    assert not any(map(psutil.pid_exists, started))


@pytest.mark.cluster
def test_a_ray_cluster_that_fails_halfway_leaves_no_process(monkeypatch):
    from ray.cluster_utils import Cluster

    def never(self: Cluster, timeout: float) -> None:
        raise TimeoutError("the second node did not come")

    before = set(psutil.Process().children(recursive=True))
    monkeypatch.setattr(Cluster, "wait_for_nodes", never)
    with (
        pytest.raises(TimeoutError, match="second node"),
        ray_environment(),
        ray_cluster(num_cpus=1, include_dashboard=False),
    ):
        pass
    assert not set(psutil.Process().children(recursive=True)) - before


@pytest.mark.slow
@pytest.mark.parametrize(("ci", "outcome"), [("", "2 skipped"), ("true", "2 errors")])
def test_a_missing_browser_is_reported_once_with_its_package_and_fails_in_ci(tmp_path, ci, outcome):
    file, selected = TESTS / "tuning" / "test_report.py", "charts_are_drawn"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-k", selected, file],
        env=os.environ | {"PATH": str(tmp_path), "CI": ci},
        capture_output=True,
        text=True,
    )
    assert outcome in ran.stdout
    assert "Chromium is not installed (Debian's package: chromium)" in ran.stdout
    assert ran.stdout.count("2 tests of pages did not run") == (0 if ci else 1)
