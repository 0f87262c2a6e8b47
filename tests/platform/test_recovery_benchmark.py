"""What `jobs/benchmark.py recovery` reads from the lines of a training."""

import pytest
from sdavs_platform.benchmarks.recovery import Moments, results_table

START = """\
recovery: MLflow run 0a1b at sqlite:////tmp/mlflow.db
(RayTrainWorker pid=7) recovery: starting | 400 clips, 40 to validate | 2 workers, ZeRO-2, 1.1 M weights
(RayTrainWorker pid=7) epoch 1/1000 step 1/50000 | loss 1.900 | lr 1.0e-03 | 4.0 clips/s | ETA 1:00
(RayTrainWorker pid=7) epoch 1/1000 step 2/50000 | loss 1.800 | lr 1.0e-03 | 4.0 clips/s | ETA 1:00
""".splitlines()
AGAIN = """\
(RayTrainWorker pid=7) epoch 1/1000 step 11/50000 | loss 1.800 | lr 1.0e-03 | 4.0 clips/s | ETA 1:00
(RayTrainWorker pid=9) recovery: resuming after step 9 | 400 clips, 40 to validate | 2 workers, ZeRO-2, 1.1 M weights
(RayTrainWorker pid=9) epoch 1/1000 step 10/50000 | loss 1.900 | lr 1.0e-03 | 4.0 clips/s | ETA 1:00
""".splitlines()


def moments(lines: list[str], *, began: float, placed: float, at: list[float]) -> Moments:
    found = Moments(began=began, placed=placed)
    for line, moment in zip(lines, at, strict=True):
        found.note_line(line, moment)
    return found


def test_a_start_is_divided_into_its_phases():
    start = moments(START, began=100, placed=112, at=[106, 120, 121.5, 122])
    assert start.phases() == {
        "imports, checks, MLflow run": 6,
        "Ray, worker processes": 6,
        "workers' imports, model, engine": 8,
        "first step": 1.5,
        "total": 21.5,
    }
    assert start.steps == [1, 2]


def test_a_recovery_ends_with_a_step_of_the_new_workers_and_counts_the_lost_ones():
    recovery = moments(AGAIN, began=200, placed=204, at=[200.1, 215, 216])
    assert recovery.resumed_after == 9
    assert recovery.phases() == {
        "Ray, worker processes": 4,
        "workers' imports, model, engine": 11,
        "first step": 1,
        "total": 16,
    }


def test_the_table_shows_both_and_the_checkpoints():
    start = moments(START, began=100, placed=112, at=[106, 120, 121.5, 122])
    recovery = moments(AGAIN, began=200, placed=204, at=[200.1, 215, 216])
    table = results_table(
        {
            "start": start.phases(),
            "recovery": recovery.phases(),
            "steps_again": 2,
            "checkpoint_ms": {"median": 40.0, "largest": 55.0, "number": 3},
        }
    )
    assert "a checkpoint blocks 40 ms (median of 3), at most 55 ms" in table
    total = next(line for line in table.splitlines() if line.startswith("total"))
    assert total.split() == ["total", "21.5", "16.0"]


@pytest.mark.parametrize("line", ["", "step 3/9", "MLflow run of another kind"])
def test_other_lines_say_nothing(line):
    assert moments([line], began=0, placed=1, at=[5.0]) == Moments(began=0, placed=1)
