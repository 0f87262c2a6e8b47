"""Write a data set as shards, from which a training fetches clips while it runs.

    python jobs/prepare_data.py shard data/own s3://bucket/own-shards
    python jobs/train.py --data.root s3://bucket/own-shards --data.cache_gb 50

Shards are tar files in the data set's own layout, with an index of the position and digest of every file. Credentials
and endpoint come from the standard places (AWS_ENDPOINT_URL, AWS_PROFILE, an instance's role).
"""

import argparse
from pathlib import Path

from _job import print_result


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `prepare_data.py shard`."""
    what = parser.add_argument_group("what and where")
    what.add_argument("root", metavar="ROOT", type=Path, help="folder of the data set")
    what.add_argument("uri", metavar="URI", help="s3://bucket/folder, or a folder")
    what.add_argument("--kind", default="auto", help="as data.kind (default: %(default)s)")
    what.add_argument(
        "--shard-mb", type=int, default=64, help="size of a shard, in MB (default: %(default)s)"
    )


def run(flags: argparse.Namespace) -> None:
    """Write them."""
    from sdavs_platform.console import progress
    from sdavs_platform.storage.shards import write_shards

    with progress(every=1000) as show:
        index = write_shards(
            flags.root, flags.uri, kind=flags.kind, shard_bytes=flags.shard_mb * 1_000_000, progress=show
        )
    size = sum(shard["bytes"] for shard in index.shards.values()) + index.tables["bytes"]
    print_result(
        f"{flags.uri}: {len(index.records)} clips in {len(index.shards)} shards, {size / 1e6:.1f} MB in all"
    )
