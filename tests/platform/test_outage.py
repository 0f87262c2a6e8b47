"""Storage that refuses to be written, or is away while a training's controller wants to write."""

import contextlib

import pytest
import ray
import ray.train
from sdavs_platform.storage.filesystem import require_writable
from sdavs_platform.training.faults.retries import fit_through_outages
from sdavs_platform.training.run import train


def test_storage_that_refuses_to_be_written_is_reported_before_any_worker_starts(make_config, state):
    with pytest.raises(ValueError, match=r"storage.uri: /proc cannot be written: .*/proc/refused"):
        train(make_config("refused", storage={"uri": "/proc"}))  # which refuses root, too
    assert not ray.is_initialized()
    require_writable(str(state / "results"), "run")


@pytest.mark.parametrize(
    ("cause", "max_failures", "num_calls"),
    [(OSError("away"), 2, 3), (OSError("away"), 1, 2), (ValueError("bad"), 2, 1)],
)
def test_a_controller_that_cannot_write_to_the_storage_is_started_again(
    tmp_path, caplog, cause, max_failures, num_calls
):
    calls: list[int] = []

    def fit() -> str:
        calls.append(1)
        if len(calls) <= 2:
            raise ray.train.ControllerError(cause)
        return "trained"

    caplog.set_level("INFO", logger="sdavs_platform")
    context = contextlib.nullcontext() if num_calls == 3 else pytest.raises(ray.train.ControllerError)
    with context:
        fit_through_outages(fit, max_failures=max_failures, uri=str(tmp_path), name="run")
    assert len(calls) == num_calls
    lines = [line for line in caplog.messages if line.startswith("run: the storage failed")]
    assert len(lines) == num_calls - 1
