"""Files that appear under their name when they are whole, so that a killed run leaves none that is half."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path


def write_table(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """A csv."""
    with (part := _part(path)).open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    part.replace(path)


def write_atomically(path: Path, content: str | bytes) -> None:
    """A file of text or bytes."""
    part = _part(path)
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")
