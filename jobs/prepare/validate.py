"""Check a data set folder and list every defect with its file; exit code 1 if there is any.

    python jobs/prepare_data.py validate /data/AVSBench/Multi-sources
    python jobs/prepare_data.py validate /data/AVSBench --kind avsbench-s4 --json

Every picture, mask and sound of every split is read to find missing files, wrong counts and sizes, unreadable pictures
and sounds, unknown colours and values in masks. Sounds shorter than their frames are listed as notes: training
continues them as the data set's own scripts do.
"""

import argparse
import json

from _flags import add_reading
from _job import print_result


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `prepare_data.py validate`."""
    add_reading(parser)


def run(flags: argparse.Namespace) -> int:
    """Check and print."""
    from sdavs_platform.console import progress
    from sdavs_platform.storage.datasets import local_copy

    from sdavs_model.data.tools.validate import validate

    root = local_copy(flags.root)
    with progress(every=1000) as show:
        report = validate(
            root, flags.kind, num_frames=flags.num_frames, num_workers=flags.workers, progress=show
        )
    if flags.json:
        print_result(json.dumps(vars(report), indent=2))
    else:
        for line in (*report.defects, *(f"note: {note}" for note in report.notes)):
            print_result(line)
        clips = ", ".join(f"{split} {count}" for split, count in report.num_clips.items())
        print_result(f"{flags.root}: {report.kind}, clips: {clips}; {len(report.defects) or 'no'} defects")
    return 1 if report.defects else 0
