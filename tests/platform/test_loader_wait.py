"""The arithmetic of `jobs/benchmark.py data --simulate-gpu`."""

from collections.abc import Iterator

import pytest
from sdavs_platform.benchmarks.loader_wait import paper_step_s, results_table, waiting


class FakeClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def batches(self, seconds: list[float]) -> Iterator[None]:
        for each in seconds:
            self.sleep(each)
            yield None


def test_only_the_waits_after_the_warm_up_count():
    clock = FakeClock()
    batches = clock.batches([9.0, 0.5, 0.0, 0.0, 0.5])
    found = waiting(batches, step_s=1, num_steps=4, warm_up=1, now=clock.now, sleep=clock.sleep)
    assert found == pytest.approx(1 / 5)


def test_the_papers_step_is_three_passes_at_the_speed_of_table_x():
    assert paper_step_s() == pytest.approx(3 * 20 / 31.2)


def test_the_table_shows_each_way_of_loading():
    report = {
        "step_s": 1.92,
        "batch_size": 4,
        "image_size": 384,
        "clip_ms": {"as stored": 48.9},
        "wait": {"as stored": {0: 0.1, 2: 0.004}},
    }
    assert results_table(report).splitlines()[-1].split() == ["as", "stored", "49", "10.0%", "0.4%"]
