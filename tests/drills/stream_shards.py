"""Clips from a bucket: copied before the first step, or fetched from shards while training.

    .venv/bin/python tests/drills/stream_shards.py

Starts an S3 server of its own, puts a composed data set into it as files and as shards, and loads two epochs in each
way with an empty cache, as a training with one worker does: time and bytes until the first batch, batches per second.
Decoding is the same in all; with this set's small pictures it is most of the work.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from running import kill_family
from sdavs_platform.config.cli import validated
from sdavs_platform.local import processes
from sdavs_platform.local.object_store import ObjectStore
from sdavs_platform.storage.datasets import upload
from sdavs_platform.storage.filesystem import Storage
from sdavs_platform.storage.shards import write_shards
from sdavs_platform.tables import text_table
from sdavs_platform.training.batches import Batches

from sdavs_model.data.realav.build import RealAVConfig, prepare

BATCH = 4


@contextmanager
def object_store(folder: Path):
    """An S3 server, its address and keys in the environment."""
    store = ObjectStore(host="127.0.0.1", port=processes.next_free(19400), key="reader", secret="writer")
    service = store.start(folder)
    try:
        os.environ |= {
            "AWS_ENDPOINT_URL": store.endpoint,
            "AWS_ACCESS_KEY_ID": store.key,
            "AWS_SECRET_ACCESS_KEY": store.secret,
        }
        store.wait(service, folder=folder, buckets=("data",))
        yield
    finally:
        kill_family(service.pid)


def row(way: str, root: str, folder: Path, *, cache_gb: float | None = None) -> list[str]:
    """Two epochs of the training split; the state folder is new."""
    os.environ["SDAVS_HOME"] = str(folder / way.replace(" ", "-"))
    data = {"root": root, "cache_gb": cache_gb, "augment": {"mix_prob": 0.0}}
    config = validated({"data": data, "model": {"image_size": 64}, "training": {"batch_size": BATCH}})
    began = time.monotonic()
    batches = Batches(config, rank=0, world_size=1)
    first, fetched, speeds = 0.0, 0, []
    for epoch in range(2):
        started, number = time.monotonic(), 0
        for _ in batches.epoch(epoch):
            number += 1
            if not first:
                first, fetched = time.monotonic() - began, in_cache(folder / way.replace(" ", "-"))
        speeds.append(number / (time.monotonic() - started))
    kept = in_cache(folder / way.replace(" ", "-"))
    return [
        way,
        f"{first:.1f}",
        f"{fetched / 1e6:.1f}",
        *(f"{speed:.1f}" for speed in speeds),
        f"{kept / 1e6:.1f}",
    ]


def in_cache(folder: Path) -> int:
    """Bytes of the data set on this machine."""
    found = [*folder.glob("cache/data/**/*"), *folder.glob("cache/shards/**/*")]
    return sum(path.stat().st_size for path in found if path.is_file())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=400, help="training clips (default: %(default)s)")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sdavs-stream-") as scratch:
        folder = Path(scratch)
        counts = {
            "num_train": flags.clips,
            "num_val": 8,
            "num_test_new_scenes": 8,
            "num_test_strict": 8,
            "num_test_strict_wide": 0,
        }
        prepare(folder / "set", RealAVConfig(**counts, size=128))
        (folder / "s3").mkdir()
        with object_store(folder / "s3"):
            began = time.monotonic()
            upload(folder / "set", "s3://data/files")
            uploaded = time.monotonic() - began
            write_shards(folder / "set", "s3://data/shards", shard_bytes=8_000_000)
            sharded = time.monotonic() - began - uploaded
            sizes = {name: Storage(f"s3://data/{name}", field="uri").sizes() for name in ("files", "shards")}
            for name, seconds in (("files", uploaded), ("shards", sharded)):
                total = sum(sizes[name].values()) / 1e6
                print(f"{name}: {len(sizes[name])} objects, {total:.1f} MB, written in {seconds:.1f} s")
            limit = sum(sizes["shards"].values()) / 4e9
            rows = [
                row("folder", str(folder / "set"), folder),
                row("bucket, copied", "s3://data/files", folder),
                row("bucket, shards", "s3://data/shards", folder),
                row("shards, a quarter kept", "s3://data/shards", folder, cache_gb=limit),
            ]
    heads = ["", "first batch after, s", "MB until then", "batches/s, epoch 1", "epoch 2", "MB kept"]
    print(text_table(heads, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
