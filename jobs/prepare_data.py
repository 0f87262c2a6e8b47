"""Makes RealAV, the data set of the demo, from the bundled photographs and recordings.

    python jobs/prepare_data.py                            what `make demo` and a bare training do by themselves
    python jobs/prepare_data.py --out data --num-train 2000 --size 224

It is written in AVSBench's MS3 layout and has four splits: train; val (assets kept out of training);
test_new_scenes (the training's assets in new scenes); test_strict (assets never seen or heard before).
A second run with the same flags finds the data complete and does nothing; an interrupted run continues.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import _sources
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_sources.use_this_checkout()

from sdavs_model.data.realav import RealAVConfig, prepare  # noqa: E402


def parser() -> argparse.ArgumentParser:
    """The flags; their defaults are those of `RealAVConfig`."""
    default = RealAVConfig()
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    where = flags.add_argument_group("where and how")
    where.add_argument(
        "--out", type=Path, default=Path(".sdavs/data"), help="folder to write to (default: %(default)s)"
    )
    where.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes that compose clips (default: the CPUs at hand, %(default)s)",
    )
    counts = flags.add_argument_group("clips in each split")
    counts.add_argument(
        "--num-train", type=int, default=default.num_train, help="training (default: %(default)s)"
    )
    counts.add_argument(
        "--num-val", type=int, default=default.num_val, help="validation (default: %(default)s)"
    )
    counts.add_argument(
        "--num-test-new-scenes",
        type=int,
        default=default.num_test_new_scenes,
        help="test, known assets (default: %(default)s)",
    )
    counts.add_argument(
        "--num-test-strict",
        type=int,
        default=default.num_test_strict,
        help="test, unseen assets (default: %(default)s)",
    )
    clips = flags.add_argument_group("the clips")
    clips.add_argument(
        "--size", type=int, default=default.size, help="side of the frames in pixels (default: %(default)s)"
    )
    clips.add_argument(
        "--num-frames",
        type=int,
        default=default.num_frames,
        help="frames, and seconds, of a clip (default: %(default)s)",
    )
    clips.add_argument(
        "--seed", type=int, default=default.seed, help="another seed, other clips (default: %(default)s)"
    )
    return flags


def main() -> None:
    values = vars(parser().parse_args())
    out, num_workers = values.pop("out"), values.pop("workers")
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("composing clips"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    try:
        if num_workers < 1:
            raise ValueError(f"--workers: {num_workers} is below 1")
        config = RealAVConfig(**values)
        with bar:
            task = bar.add_task("clips", total=None)

            def show(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)
                if bar.disable and (done % 100 == 0 or done == total):
                    print(f"composing clips: {done} of {total}", file=sys.stderr, flush=True)

            written = prepare(
                out,
                config,
                num_workers=num_workers,
                progress=show,
            )
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command continues from here")
    print(f"{out}: RealAV {'written' if written else 'is complete, nothing to do'}")


if __name__ == "__main__":
    main()
