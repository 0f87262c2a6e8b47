"""Versions that cannot be loaded: which failures pass, and whose fault they are."""

import pytest
from sdavs_platform.config.tree import ServeConfig
from sdavs_platform.tracking.registry import DownloadError
from sdavs_serve.rollout.retries import with_retries
from sdavs_serve.rollout.store import ReplicaReport, summary_of


class Flaky:
    """Fails a few times, then works."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "loaded"


def attempt(work: Flaky) -> str:
    return with_retries(work, what="m/1", pauses_s=(0.0, 0.0))


def test_a_failure_that_passes_is_retried_and_one_of_the_version_is_not():
    passing = Flaky(DownloadError("MLflow is away"), RuntimeError("CUDA out of memory"))
    assert (attempt(passing), passing.calls) == ("loaded", 3)
    wrong = Flaky(ValueError("sha256 differs"))
    with pytest.raises(ValueError, match="sha256 differs"):
        attempt(wrong)
    assert wrong.calls == 1
    gone = Flaky(*(DownloadError(f"attempt {number}") for number in (1, 2, 3)))
    with pytest.raises(DownloadError, match="attempt 3"):
        attempt(gone)


def report(holds: str | None, failed: str | None = None, wants: str = "m/2") -> ReplicaReport:
    return ReplicaReport(beat=1, wants=wants, holds=holds, failed=failed)


def test_one_replicas_failed_load_is_not_the_versions_fault_if_others_have_it():
    loaded, failed, loading = report("m/2"), report(None, "out of memory"), report(None)
    slot = summary_of("m/2", [loaded, failed, loaded])
    assert (slot.loaded, slot.some_loaded, slot.failed) == ("m/2", True, None)
    slot = summary_of("m/2", [loading, failed])
    assert (slot.loaded, slot.some_loaded, slot.failed) == (None, False, None), "the other one may succeed"
    slot = summary_of("m/2", [failed, failed])
    assert (slot.loaded, slot.some_loaded, slot.failed) == (None, False, "out of memory")
    earlier = report(None, "no such file", wants="m/1")
    assert summary_of("m/2", [earlier]).failed is None, "that was another version"
    assert summary_of("m/2", []).failed is None


def test_a_bake_during_which_the_previous_version_would_be_scaled_down_is_refused():
    ServeConfig(max_replicas=2, scale_down_after_s=300, rollout={"bake_s": 300})
    ServeConfig(max_replicas=1, scale_down_after_s=5, rollout={"bake_s": 300})
    with pytest.raises(
        ValueError, match=r"rollout\.bake_s: 300 is above scale_down_after_s.*allowed: up to 5"
    ):
        ServeConfig(max_replicas=2, scale_down_after_s=5, rollout={"bake_s": 300})
