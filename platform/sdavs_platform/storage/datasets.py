"""Where data sets come from: the bundled one, composed on first use, or a bucket, cached on this machine by content.

A data set in a bucket comes with a manifest of digests. Each node downloads it once and verifies every file.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdavs_platform.config.paths import state_folder
from sdavs_platform.storage.filesystem import Storage

MANIFEST = "sdavs_manifest.json"
COMPLETE = ".complete"
NUM_TRANSFERS = 32
CHUNK = 1 << 20

Progress = Callable[[int, int], None]


def bundled_data(*, say: Callable[[str], None] = print) -> Path:
    """Its folder; composed on first use, which takes a minute or so on two cores.

    Raises:
        ValueError: the folder holds something else.
    """
    from sdavs_model.data.realav.build import RealAVConfig, prepare

    def progress(stage: str, done: int, total: int) -> None:
        if done % 100 == 0 or done == total:
            say(f"composing the bundled data set: {done} of {total} clips")

    folder = state_folder() / "data"
    prepare(folder, RealAVConfig(), num_workers=len(os.sched_getaffinity(0)), progress=progress)
    return folder


def upload(
    root: Path, uri: str, *, num_workers: int = NUM_TRANSFERS, progress: Progress = lambda done, total: None
) -> dict[str, int]:
    """Copies every file below `root` to `uri`, and at last the manifest, without which `local_copy` refuses it.

    An interrupted upload is continued: a file that is there with the right size is left, unless the manifest of an
    earlier upload says that it was another.

    Returns:
        {"files", "bytes": in all, "sent": files copied now}.

    Raises:
        ValueError: no such folder, an empty one, or a storage that cannot be reached.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such data folder")
    storage = Storage(uri, field="uri")
    paths = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".part")
    if not paths:
        raise ValueError(f"{root}: holds no files")
    there = storage.sizes()
    before = _read_manifest(storage)["files"] if MANIFEST in there else {}

    def send(path: Path) -> tuple[str, dict[str, Any], bool]:
        name, content = path.relative_to(root).as_posix(), path.read_bytes()
        entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        same = there.get(name) == len(content) and before.get(name, entry) == entry
        if not same:
            storage.write(name, content)
        return name, entry, not same

    files, num_sent = {}, 0
    with _workers(num_workers) as workers:
        for done, (name, entry, sent) in enumerate(workers.map(send, paths), 1):
            files[name] = entry
            num_sent += sent
            progress(done, len(paths))
    manifest = json.dumps({"version": 1, "files": dict(sorted(files.items()))}).encode()
    storage.write(MANIFEST, manifest)
    return {"files": len(files), "bytes": sum(entry["bytes"] for entry in files.values()), "sent": num_sent}


def local_copy(
    root: str | Path,
    *,
    cache: Path | None = None,
    num_workers: int = NUM_TRANSFERS,
    progress: Progress = lambda done, total: None,
) -> Path:
    """The data set as a local folder: `root` itself, or for a URI its copy in this machine's cache.

    The copy's name is the sha256 of the manifest, so the same data is fetched once under any address, and changed data
    is fetched anew. Several processes may ask at once: one fetches, the others wait. A file appears under its name when
    its digest has been verified, so an interrupted fetch is continued.

    Args:
        root: a local path, or a URI that `upload` wrote to.
        cache: where copies lie; None for `cache/data` in the state folder.
        num_workers: transfers at once.
        progress: called with (files there, files in all) while fetching.

    Raises:
        ValueError: the address cannot be reached, holds no manifest, or a file is missing or not what the manifest
            says; names it.
    """
    if "://" not in str(root):
        return Path(root)
    storage = Storage(str(root), field="data.root")
    manifest = _read_manifest(storage)
    cache = cache or state_folder() / "cache" / "data"
    folder = cache / manifest["sha256"][:32]
    if (folder / COMPLETE).is_file():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{folder.name}.lock"):
        if not (folder / COMPLETE).is_file():
            _fetch(storage, manifest["files"], folder, num_workers, progress)
            (folder / COMPLETE).touch()
    return folder


def _fetch(
    storage: Storage, files: dict[str, dict[str, Any]], folder: Path, num_workers: int, progress: Progress
) -> None:
    missing = [name for name in files if not (folder / name).is_file()]
    done = len(files) - len(missing)
    with _workers(num_workers) as workers:
        for _ in workers.map(lambda name: _fetch_one(storage, name, files[name], folder), missing):
            done += 1
            progress(done, len(files))


def _fetch_one(storage: Storage, name: str, entry: dict[str, Any], folder: Path) -> None:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    digest = hashlib.sha256()
    with storage.open(name) as source, part.open("wb") as copy:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            copy.write(chunk)
    if digest.hexdigest() != entry["sha256"]:
        part.unlink()
        raise ValueError(
            f"data.root: {storage.uri}/{name} is not what {MANIFEST} says; delete it there and upload again"
        )
    part.replace(target)


def _read_manifest(storage: Storage) -> dict[str, Any]:
    if not storage.exists(MANIFEST):
        raise ValueError(
            f"data.root: {storage.uri}/{MANIFEST} is missing; `python jobs/prepare_data.py upload` writes it last"
        )
    with storage.open(MANIFEST) as file:
        content = file.read()
    try:
        manifest = json.loads(content)
        files = {_inside(name): entry for name, entry in manifest["files"].items()}
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"data.root: {storage.uri}/{MANIFEST} is damaged ({error})") from None
    return {"files": files, "sha256": hashlib.sha256(content).hexdigest()}


def _inside(name: str) -> str:
    """The name, if it stays below the data set's folder: a manifest may come from anybody."""
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"the path {name} leads out of the folder")
    return name


@contextmanager
def _workers(number: int) -> Iterator[ThreadPoolExecutor]:
    """Threads whose waiting calls are dropped when one fails or Ctrl-C comes."""
    with ThreadPoolExecutor(number) as workers:
        try:
            yield workers
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of this machine at a time; a killed one lets go."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
