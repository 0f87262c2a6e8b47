"""What each worker wrote of a checkpoint, so that a part that never arrived, or was damaged since, is noticed."""

import json
from collections.abc import Callable
from pathlib import Path

from sdavs_model.files import sha256_of

FORMAT = 2


def write_manifest(folder: Path, *, rank: int, world_size: int) -> None:
    """List this worker's files with sizes and digests. The last file it writes: without it nothing counts."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"format": FORMAT, "world_size": world_size, "files": files}
    _path(folder, rank).write_text(json.dumps(manifest, indent=2))


def verify_complete(folder: Path, *, is_read: Callable[[int], bool] = lambda rank: True) -> int:
    """Compare the files with the manifests of all workers; returns their number.

    Args:
        is_read: by worker, whether its files are also read and compared with their digests.

    Raises:
        ValueError: a manifest or file is missing, has another size or another content; names it.
    """
    world_size: int = _manifest(folder, 0)["world_size"]
    for rank in range(world_size):
        for name, written in _manifest(folder, rank)["files"].items():
            file = folder / name
            found = file.stat().st_size if file.is_file() else None
            if found != written["bytes"]:
                is_now = "missing" if found is None else f"{found} bytes"
                raise ValueError(
                    f"{file}: {is_now}, but {written['bytes']} bytes were written; incomplete checkpoint"
                )
            if is_read(rank) and sha256_of(file) != written["sha256"]:
                raise ValueError(f"{file}: not the bytes that were written; damaged checkpoint")
    return world_size


def _manifest(folder: Path, rank: int) -> dict:
    path = _path(folder, rank)
    if not path.is_file():
        raise ValueError(f"{path}: missing; the checkpoint is incomplete")
    manifest = json.loads(path.read_text())
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{path}: written by another version of this program; choose another --name")
    return manifest


def _path(folder: Path, rank: int) -> Path:
    return folder / f"manifest-rank{rank}.json"
