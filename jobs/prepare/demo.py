"""The demo's data set, from the bundled photographs and recordings.

    python jobs/prepare_data.py                            what `make demo` and a bare training do by themselves
    python jobs/prepare_data.py --out data --num-train 2000 --size 224

It is written in AVSBench's MS3 layout and has five splits: train; val (assets kept out of training);
test_new_scenes (the training's assets in new scenes); test_strict (assets never used in training); test_strict_wide
(these and more assets that are never used in training; not evaluated unless asked for).
A second run with the same flags finds the data complete and does nothing; an interrupted run is resumed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from _flags import add_workers
from _job import print_result


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `prepare_data.py demo`."""
    where = parser.add_argument_group("where and how")
    where.add_argument(
        "--out", type=Path, default=Path(".sdavs/data"), help="folder to write to (default: %(default)s)"
    )
    add_workers(where, "processes that compose clips")
    add_clip_flags(parser)


def add_clip_flags(parser: argparse.ArgumentParser, *, without: Sequence[str] = (), **defaults: int) -> None:
    """The fields of `RealAVConfig`, but for the subset and those of `without`; `defaults` in place of its own."""
    from sdavs_model.data.realav.build import RealAVConfig

    default = {**vars(RealAVConfig()), **defaults}
    counts = parser.add_argument_group("clips in each split")
    clips = parser.add_argument_group("the clips")
    for group, name, what in (
        (counts, "num_train", "training"),
        (counts, "num_val", "validation"),
        (counts, "num_test_new_scenes", "test, known assets"),
        (counts, "num_test_strict", "test, unseen assets"),
        (counts, "num_test_strict_wide", "test, more unseen assets; 0 leaves the split out"),
        (clips, "size", "side of the frames in pixels"),
        (clips, "num_frames", "frames, and seconds, of a clip"),
        (clips, "seed", "another seed, other clips"),
    ):
        if name not in without:
            flag = f"--{name.replace('_', '-')}"
            group.add_argument(flag, type=int, default=default[name], help=f"{what} (default: %(default)s)")


def run(flags: argparse.Namespace) -> None:
    """Compose, or find everything in place."""
    from sdavs_platform.console import progress

    from sdavs_model.data.realav.build import RealAVConfig, prepare

    values = {name: value for name, value in vars(flags).items() if name not in ("out", "workers", "run")}
    config = RealAVConfig(**values)
    with progress() as show:
        written = prepare(flags.out, config, num_workers=flags.workers, progress=show)
    print_result(f"{flags.out}: RealAV {'written' if written else 'is complete, nothing to do'}")
