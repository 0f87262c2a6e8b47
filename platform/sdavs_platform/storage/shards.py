"""A data set as tar files with an index, so that a training can read clips from a bucket while it runs.

<address>/sdavs_shards.json   the index, written last: digests of the splits, what is where
          tables.tar          tables and other texts, which are needed before the first clip
          shard-00000.tar     the pictures and sounds of some clips, one clip's next to each other
          ...

Each tar unpacks to the data set's own layout with any program (as WebDataset's do, though their readers give up the
order of the clips that a resume needs). A clip's files are one run of bytes, a record, which is one request and has a
digest of its own. A file that several clips use lies in the record of the first.
"""

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdavs_model.data.core.clip_set import ClipSet
from sdavs_model.data.core.workers import Progress, no_progress
from sdavs_model.data.datasets import known_kind, open_splits
from sdavs_model.files import composed, is_litter
from sdavs_platform.storage.filesystem import Storage

INDEX = "sdavs_shards.json"
TABLES = "tables.tar"
VERSION = 1
BLOCK = tarfile.BLOCKSIZE

_TEXTS = (".csv", ".json", ".txt", ".md")
"""Files that are read when a data set is opened, or that people read."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run of bytes in a shard: the files of one clip that no earlier clip has."""

    shard: str
    offset: int
    size: int
    sha256: str
    files: list[tuple[str, int, int]]
    """Path in the data set, offset in the record and size of each."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """The index of the shards: where each file is, and the digests of everything."""

    digest: str
    """sha256 of the index itself: of all that it describes."""
    kind: str
    digests: dict[str, str]
    """Digest of each split, the same as `ClipSet.digest` of the folder."""
    tables: dict[str, Any]
    """"bytes" and "sha256" of TABLES."""
    shards: dict[str, dict[str, Any]]
    """By name, "bytes" and "sha256"."""
    records: list[Record]


def write_shards(
    root: Path, uri: str, *, kind: str = "auto", shard_bytes: int = 64 << 20, progress: Progress = no_progress
) -> Index:
    """Write a data set to `uri` as shards; files that no clip uses are left out, except texts.

    Args:
        root: its folder.
        kind: as `data.kind`.
        shard_bytes: a shard is closed when it is as large; one clip is never divided.

    Raises:
        ValueError: no such data set, a file is missing, or the storage cannot be written.
    """
    kind = known_kind(kind, root)
    splits = open_splits(root, kind)
    storage = Storage(uri, field="uri")
    clips = list(_clips(root, splits))
    records: list[dict[str, Any]] = []
    shards: dict[str, dict[str, Any]] = {}
    known: set[str] = set()
    position = 0
    while position < len(clips):
        name = f"shard-{len(shards):05d}.tar"
        with tempfile.TemporaryFile() as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                while position < len(clips) and file.tell() < shard_bytes:
                    own = [path for path in clips[position] if path not in known]
                    if own:
                        records.append({"shard": name, **_written(tar, file, root, own)})
                        known.update(own)
                    position += 1
                    progress("writing", position, len(clips))
            shards[name] = _sent(storage, name, file)
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in _TEXTS and not is_litter(p)):
                tar.add(path, _name(path, root))
        tables = _sent(storage, TABLES, file)
    content = {
        "version": VERSION,
        "kind": kind,
        "digests": {split: clips.digest for split, clips in splits.items()},
        "tables": tables,
        "shards": shards,
        "records": records,
    }
    storage.write(INDEX, json.dumps(content).encode())
    return read_index(storage)


def read_index(storage: Storage) -> Index:
    """The index at an address.

    Raises:
        ValueError: it is missing or damaged; names it.
    """
    content = storage.read(INDEX)
    if content is None:
        raise ValueError(
            f"data.root: {storage.uri}/{INDEX} is missing; `prepare_data.py shard` writes it last"
        )
    try:
        values = json.loads(content)
        if values["version"] != VERSION:
            raise ValueError(f"version {values['version']}, this program reads {VERSION}")
        records = [
            Record(**one | {"files": [tuple(file) for file in one["files"]]}) for one in values["records"]
        ]
        for path, *_ in (file for record in records for file in record.files):
            if path.startswith("/") or ".." in path.split("/"):
                raise ValueError(f"the path {path} is outside the folder")
        return Index(
            digest=hashlib.sha256(content).hexdigest(),
            kind=values["kind"],
            digests=values["digests"],
            tables=values["tables"],
            shards=values["shards"],
            records=records,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"data.root: {storage.uri}/{INDEX} is damaged ({error})") from None


def _clips(root: Path, splits: dict[str, ClipSet]) -> Iterator[list[str]]:
    """The pictures and sounds of each clip of every split."""
    for clips in splits.values():
        for files in clips.files:
            paths = [*files.paths, *([files.objects] if files.objects else [])]
            yield [_name(path, root) for path in dict.fromkeys(paths) if path.suffix.lower() not in _TEXTS]


def _written(tar: tarfile.TarFile, file: Any, root: Path, paths: Sequence[str]) -> dict[str, Any]:
    """Add a record to an open shard; returns its entry in the index."""
    begin, files = file.tell(), []
    for path in paths:
        size = (root / path).stat().st_size
        info = tarfile.TarInfo(path)  # neither times nor owners: the same data make the same bytes
        info.size = size
        with (root / path).open("rb") as source:
            tar.addfile(info, source)
        files.append((path, file.tell() - -(-size // BLOCK) * BLOCK - begin, size))
    end = file.tell()
    file.seek(begin)
    digest = hashlib.sha256(file.read(end - begin)).hexdigest()
    return {"offset": begin, "size": end - begin, "sha256": digest, "files": files}


def _sent(storage: Storage, name: str, file: Any) -> dict[str, Any]:
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = file.tell()
    file.seek(0)
    storage.write_from(name, file)
    return {"bytes": size, "sha256": digest}


def _name(path: Path, root: Path) -> str:
    return composed(path.relative_to(root).as_posix())
