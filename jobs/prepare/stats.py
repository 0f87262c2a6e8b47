"""Count the content of a data set: clips, categories, sizes, and the fraction of sounding pixels.

python jobs/prepare_data.py stats data/own
python jobs/prepare_data.py stats data/realav/avss --json
"""

import argparse
import json

from _flags import add_reading
from _job import print_result


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `prepare_data.py stats`."""
    add_reading(parser)


def run(flags: argparse.Namespace) -> None:
    """Count and print."""
    from sdavs_platform.storage.datasets import local_copy
    from sdavs_platform.tables import text_table

    from sdavs_model.data.core.statistics import statistics
    from sdavs_model.data.datasets import open_splits

    splits = open_splits(local_copy(flags.root), flags.kind, num_frames=flags.num_frames)
    numbers = {split: statistics(clips, num_workers=flags.workers) for split, clips in splits.items()}
    if flags.json:
        print_result(json.dumps(numbers, indent=2))
        return
    columns = ("clips", "frames", "masks", "masks_with_sound", "mean_share_of_pixels")
    header = ["split", *(column.replace("_", " ") for column in columns)]
    print_result(
        text_table(
            header, [[split, *map(str, map(counted.get, columns))] for split, counted in numbers.items()]
        )
    )
    for split, counted in numbers.items():
        print_result(split)
        print_result(
            "  sizes       " + ", ".join(f"{size} ({count})" for size, count in counted["sizes"].items())
        )
        heard = ", ".join(f"{name} {count}" for name, count in counted["categories"].items())
        print_result(f"  categories  {heard or 'not given by the data set'}")
