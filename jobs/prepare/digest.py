"""Print the digest of a data set: one sha256 over the path and content of every file that training reads.

    python jobs/prepare_data.py digest data/own

Equal digests mean equal data. Training logs the same over the splits it uses.
"""

import argparse

from _flags import add_data_set
from _job import print_result


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `prepare_data.py digest`."""
    add_data_set(parser)


def run(flags: argparse.Namespace) -> None:
    """Read everything once and print the digests."""
    from sdavs_platform.storage.datasets import local_copy

    from sdavs_model.data.core.clip_set import total_digest
    from sdavs_model.data.datasets import open_splits

    splits = open_splits(local_copy(flags.root), flags.kind, num_frames=flags.num_frames)
    digests = {split: clips.digest for split, clips in splits.items()}
    for split, digest in digests.items():
        print_result(f"{digest}  {split}")
    print_result(f"{total_digest(digests)}  all splits")
