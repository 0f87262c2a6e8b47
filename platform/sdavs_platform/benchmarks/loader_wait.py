"""Measures how long a training at the paper's sizes waits for its loader: the GPU's part of a step is a sleep."""

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Subset

from sdavs_model import SDAVSConfig, budgets
from sdavs_model.data.augment.config import Augment
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.data.realav.build import RealAVConfig, prepare
from sdavs_model.data.training_clips import collate_clips, open_training_clips
from sdavs_platform.tables import text_table

Report = dict[str, Any]

BATCH_SIZE = 4
"""Clips of a step, all on one GPU (IV-A)."""
STORED_SIZE = 224
"""Side of AVSBench's stored pictures."""
NUM_CLIPS = 24
PASSES = 3
"""A training step in forward passes: the backward pass computes two gradients."""


def paper_step_s() -> float:
    """Seconds of a training step by Table X's frames a second of the full Swin-B model."""
    row = budgets.paper_row(SDAVSConfig(backbone=budgets.SWIN_B), "full")
    assert row is not None
    assert row.frames_per_s is not None
    return PASSES * BATCH_SIZE * SDAVSConfig().num_frames / row.frames_per_s


def measure(*, num_workers: Sequence[int], step_s: float, num_steps: int) -> Report:
    """Load composed clips at 384 px, as stored and augmented.

    Args:
        num_workers: loader processes to try; 0 loads in this process, while nothing else happens.
        step_s: length of the sleep.
        num_steps: timed steps, after one for each loader process that fills the queue.

    Returns:
        {"step_s", "batch_size", "image_size", "clip_ms": {way: milliseconds of one clip in this process},
        "wait": {way: {workers: waiting as a fraction of a step}}}.
    """
    config = SDAVSConfig(backbone=budgets.SWIN_B)
    report: Report = {
        "step_s": step_s,
        "batch_size": BATCH_SIZE,
        "image_size": config.image_size,
        "clip_ms": {},
        "wait": {},
    }
    with tempfile.TemporaryDirectory(prefix="sdavs-loader-") as folder:
        data = RealAVConfig(
            size=STORED_SIZE,
            num_train=NUM_CLIPS,
            num_val=1,
            num_test_new_scenes=1,
            num_test_strict=1,
            num_test_strict_wide=0,
        )
        prepare(Path(folder), data)
        for way, augment in (("as stored", None), ("augmented", Augment())):
            clips = open_training_clips(
                "auto", folder, "train", Preprocessor(config.preprocess), training=True, augment=augment
            )
            clips[0]  # the first one loads what every later one uses
            started = time.perf_counter()
            for index in range(BATCH_SIZE):
                clips[index]
            report["clip_ms"][way] = 1000 * (time.perf_counter() - started) / BATCH_SIZE
            report["wait"][way] = {}
            for number in num_workers:
                warm_up = number + 1
                needed = BATCH_SIZE * (num_steps + warm_up + 2 * number)
                loader: DataLoader[Any] = DataLoader(
                    Subset(clips, [index % NUM_CLIPS for index in range(needed)]),
                    batch_size=BATCH_SIZE,
                    num_workers=number,
                    collate_fn=collate_clips,
                )
                report["wait"][way][number] = waiting(
                    loader, step_s=step_s, num_steps=num_steps, warm_up=warm_up
                )
    return report


def waiting(
    batches: Iterable[Any],
    *,
    step_s: float,
    num_steps: int,
    warm_up: int,
    now: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """The fraction of the steps' time for which the next batch was waited for."""
    iterator, waited = iter(batches), 0.0
    for step in range(warm_up + num_steps):
        started = now()
        next(iterator)
        if step >= warm_up:
            waited += now() - started
        sleep(step_s)
    return waited / (waited + num_steps * step_s)


def results_table(report: Report) -> str:
    """One row for each way of loading."""
    numbers = list(next(iter(report["wait"].values())))
    rows = [
        [way, f"{report['clip_ms'][way]:.0f}", *(f"{waits[number]:.1%}" for number in numbers)]
        for way, waits in report["wait"].items()
    ]
    return (
        f"waiting for the loader, as a part of a step of {report['step_s']:.2f} s on a GPU: "
        f"{report['batch_size']} clips of {report['image_size']} px, by loader processes\n"
        + text_table(["", "ms a clip", *map(str, numbers)], rows)
    )
