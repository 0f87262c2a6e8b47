"""Copy a data set to a bucket, so that every node of a cluster can read it at the same address.

    python jobs/prepare_data.py upload data/own s3://bucket/own
    python jobs/train.py --data.root s3://bucket/own

Files are copied unchanged, followed by a manifest with the sha256 of each; a folder without a manifest is not read. An
interrupted upload is resumed. Credentials and endpoint come from the standard places (AWS_ENDPOINT_URL, AWS_PROFILE,
an instance's role).
"""

import argparse
from pathlib import Path

from _job import print_result


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `prepare_data.py upload`."""
    what = parser.add_argument_group("what and where")
    what.add_argument("root", metavar="ROOT", type=Path, help="folder of the data set")
    what.add_argument("uri", metavar="URI", help="s3://bucket/folder, or a folder")
    what.add_argument("--workers", type=int, default=16, help="transfers at once (default: %(default)s)")


def run(flags: argparse.Namespace) -> None:
    """Copy what is not there."""
    from sdavs_platform.console import progress
    from sdavs_platform.storage.datasets import upload

    with progress(every=1000) as show:
        sent = upload(
            flags.root,
            flags.uri,
            num_workers=flags.workers,
            progress=show,
        )
    print_result(
        f"{flags.uri}: {sent['sent']} of {sent['files']} files sent, {sent['bytes'] / 1e6:.1f} MB in all"
    )
