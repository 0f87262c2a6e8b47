"""Sources of data sets: the bundled one, composed on first use, a folder, or a bucket, cached by content.

A data set in a bucket comes with a manifest of digests. Each node downloads it once and verifies every file.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdavs_model.data.core.audio_cache import SoundCache
from sdavs_model.data.core.clip_set import ClipSet
from sdavs_model.data.core.folds import fold_of_clips
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.data.core.workers import Progress, no_progress
from sdavs_model.data.training_clips import TrainingClips, open_training_clips
from sdavs_model.files import as_on_disk, is_litter, replacing
from sdavs_platform.config.paths import state_folder
from sdavs_platform.config.tree import DataConfig, RunConfig
from sdavs_platform.console import progress
from sdavs_platform.storage.filesystem import Storage
from sdavs_platform.storage.streaming import open_stream

MANIFEST = "sdavs_manifest.json"
COMPLETE = ".complete"
NUM_TRANSFERS = 32
CHUNK = 1 << 20


def bundled_data() -> Path:
    """The folder of the bundled data set, composed on first use, which takes a minute or so on two cores.

    Raises:
        ValueError: the folder holds something else.
    """
    from sdavs_model.data.realav.build import RealAVConfig, prepare

    folder = state_folder() / "data"
    with progress() as show:
        prepare(folder, RealAVConfig(), num_workers=len(os.sched_getaffinity(0)), progress=show)
    return folder


def upload(
    root: Path, uri: str, *, num_workers: int = NUM_TRANSFERS, progress: Progress = no_progress
) -> dict[str, int]:
    """Copy every file below `root` to `uri`, and the manifest last; `local_copy` refuses a folder without it.

    An interrupted upload is continued: a file that is there with the right size is skipped, unless the manifest of an
    earlier upload lists it with another digest.

    Returns:
        {"files", "bytes": in total, "sent": files copied by this call}.

    Raises:
        ValueError: no such folder, an empty one, or a storage that cannot be reached.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such data folder")
    storage = Storage(uri, field="uri")
    paths = sorted(
        path for path in root.rglob("*") if path.is_file() and path.suffix != ".part" and not is_litter(path)
    )
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
            progress("uploading", done, len(paths))
    manifest = json.dumps({"version": 1, "files": dict(sorted(files.items()))}).encode()
    storage.write(MANIFEST, manifest)
    return {"files": len(files), "bytes": sum(entry["bytes"] for entry in files.values()), "sent": num_sent}


def local_copy(
    root: str | Path,
    *,
    cache: Path | None = None,
    num_workers: int = NUM_TRANSFERS,
    progress: Progress = no_progress,
) -> Path:
    """The data set as a local folder: `root` itself, or for a URI or shards its copy in this machine's cache.

    The copy is named by the sha256 of the manifest: the same data is downloaded once, whatever its address, and changed
    data is downloaded again. Of several processes one downloads and the others wait. A file gets its name when its
    digest has been verified, so an interrupted download is continued.

    Args:
        root: a local path, or a URI that `upload` wrote to.
        cache: folder of the copies; None for `cache/data` in the state folder.
        num_workers: transfers at once.
        progress: counts files while downloading.

    Raises:
        ValueError: the address cannot be reached, holds no manifest, or a file is missing or differs from
            the manifest; names it.
    """
    cache = cache or state_folder() / "cache" / "data"
    # Its own folder: that of a training's stream may be limited.
    if (stream := open_stream(str(root), cache=cache / "whole")) is not None:
        stream.fetch_all(progress=progress)
        return stream.folder
    if "://" not in str(root):
        return as_on_disk(Path(root))
    storage = Storage(str(root), field="data.root")
    manifest = _read_manifest(storage)
    folder = cache / manifest["sha256"][:32]
    if (folder / COMPLETE).is_file():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{folder.name}.lock"):
        if not (folder / COMPLETE).is_file():
            _fetch(storage, manifest["files"], folder, num_workers, progress)
            (folder / COMPLETE).touch()
    return folder


def open_split(config: RunConfig, split: str, *, training: bool = False) -> TrainingClips:
    """One split of the run's data set; augmented if it is learned from. A bucket is first copied to this machine,
    unless it holds shards, whose clips are fetched when they are needed.

    With `data.fold` the training split is without the clips of that fold, which are the validation split.

    Raises:
        ValueError: the folder, the split or a file is missing, or a bucket cannot be reached; names it.
    """
    data = config.data
    assert data.root is not None
    cache_bytes = None if data.cache_gb is None else int(data.cache_gb * 1e9)
    stream = open_stream(data.root, cache=state_folder() / "cache" / "shards", max_bytes=cache_bytes)
    is_divided = data.fold is not None and split in (data.train_split, data.val_split)
    clips = open_training_clips(
        config.data.kind,
        local_copy(data.root) if stream is None else stream.folder,
        data.train_split if is_divided else split,
        Preprocessor(config.model.preprocess),
        num_frames=config.model.num_frames,
        training=training,
        augment=config.data.augment
        if training and config.data.augmented and not config.data.cache_features
        else None,
        seed=config.seed,
        sounds=SoundCache(state_folder() / "cache" / "sounds") if config.data.cache_sound else None,
    )
    if stream is not None:
        clips.source.hold, clips.source.recorded_digest = (
            stream.hold,
            stream.index.digests[clips.source.split],
        )
    if is_divided:
        clips.source = _part_of_folds(clips.source, data, held_out=split == data.val_split)
    return clips


def _part_of_folds(clips: ClipSet, data: DataConfig, *, held_out: bool) -> ClipSet:
    """The clips of the fold `data.fold`, or all others."""
    assert data.num_folds is not None
    # Composed clips share what they are made of; windows of a longer video share its sound.
    shared = [
        [*assets, *map(str, dict.fromkeys((files.wav, *files.more, *files.frames)))]
        for assets, files in zip(clips.assets, clips.files, strict=True)
    ]
    names = [files.name for files in clips.files]
    try:
        folds = fold_of_clips(names, shared, num_folds=data.num_folds, by=data.fold_by)
    except ValueError as error:
        raise ValueError(
            f"data.num_folds: {data.num_folds} folds of {clips.root}, split {clips.split!r}, cannot be made: {error}; "
            "allowed: fewer folds, or data.fold_by=clips, which then scores photographs and recordings that were "
            "trained on"
        ) from error
    return clips.subset([index for index, fold in enumerate(folds) if (fold == data.fold) == held_out])


def _fetch(
    storage: Storage, files: dict[str, dict[str, Any]], folder: Path, num_workers: int, progress: Progress
) -> None:
    for part in folder.rglob("*.part"):  # of a killed download
        part.unlink()
    missing = [name for name in files if not (folder / name).is_file()]
    done = len(files) - len(missing)
    with _workers(num_workers) as workers:
        for _ in workers.map(lambda name: _fetch_one(storage, name, files[name], folder), missing):
            done += 1
            progress("downloading", done, len(files))


def _fetch_one(storage: Storage, name: str, entry: dict[str, Any], folder: Path) -> None:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with replacing(target) as part:
        with storage.open(name) as source, part.open("wb") as copy:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                copy.write(chunk)
        if digest.hexdigest() != entry["sha256"]:
            raise ValueError(
                f"data.root: {storage.uri}/{name} differs from {MANIFEST}; delete it there and upload again"
            )


def _read_manifest(storage: Storage) -> dict[str, Any]:
    if not storage.exists(MANIFEST):
        raise ValueError(
            f"data.root: {storage.uri}/{MANIFEST} is missing; `python jobs/prepare_data.py upload` writes it last (or "
            "`shard` an index of shards)"
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
    """Check that a name stays below the data set's folder, because a manifest is untrusted input.

    Raises:
        ValueError: it does not.
    """
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"the path {name} is outside the folder")
    return name


@contextmanager
def _workers(number: int) -> Iterator[ThreadPoolExecutor]:
    """A thread pool whose pending calls are cancelled when one fails, or on Ctrl-C."""
    with ThreadPoolExecutor(number) as workers:
        try:
            yield workers
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock between the processes of this machine; a killed process releases it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
