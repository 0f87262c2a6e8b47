"""Whom the watchdog blames, by the stacks of workers."""

from pathlib import Path

import pytest
from sdavs_platform.training.faults import watchdog
from sdavs_platform.training.faults.watchdog import Watchdog, _place


def stack(*frames: tuple[str, int, str]) -> str:
    """A worker's file: the training thread's calls, innermost first."""
    calls = "".join(f'  File "{file}", line {line} in {function}\n' for file, line, function in frames)
    return (
        f"worker 0, process 1 on host\n\nThread 0x1 (most recent call first):\n{calls}"
        '  File "/a/sdavs_platform/training/run.py", line 1 in train_worker\n'
    )


def test_a_worker_that_reads_from_its_gpu_waits_for_the_others_and_one_that_sleeps_is_stuck(tmp_path: Path):
    source = tmp_path / "sdavs_model" / "training_step.py"
    source.parent.mkdir()
    source.write_text("\n    value = loss.item()\n    time.sleep(1000)\n    if bool(flag > 0):\n")
    assert _place(stack((str(source), 2, "training_loss"))) is None
    assert _place(stack((str(source), 4, "_time_is_up"))) is None
    assert (
        _place(stack((str(source), 3, "training_loss"))) == "is stuck in training_loss (training_step.py:3)"
    )
    assert _place(stack(("/torch/distributed/c10d.py", 9, "all_reduce"))) is None
    assert _place(None) == "does not answer"


def test_what_a_killed_group_left_in_the_temporary_folder_is_removed_by_the_next_and_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watchdog.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(watchdog.dist, "broadcast_object_list", lambda objects: None)
    for name in ("sdavs-stacks-run-20200101-000000", "sdavs-stacks-other-20200101-000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rank-0.txt").write_text("killed")
    one = Watchdog(seconds=600, rank=0, world_size=1, storage="", uri="", run_id="run")
    own = sorted(path.name for path in tmp_path.iterdir())
    assert own[0] == "sdavs-stacks-other-20200101-000000"
    assert len(own) == 2
    one.close()
    assert [path.name for path in tmp_path.iterdir()] == own[:1]
