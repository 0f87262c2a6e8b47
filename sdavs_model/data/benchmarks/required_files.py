"""The files that a data set must have: the first that is missing is refused, or all of them are noted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_noted: ContextVar[list[str] | None] = ContextVar("noted", default=None)


def require_files(paths: Sequence[Path], what: str) -> None:
    """Raises ValueError naming the first of `paths` that is not there."""
    for path in dict.fromkeys(paths):
        if not path.is_file():
            refuse(f"{path}: missing, {what}")


def refuse(message: str) -> None:
    """Raises ValueError; inside `collecting_defects` the message is noted instead, and the search goes on."""
    if (noted := _noted.get()) is None:
        raise ValueError(message)
    noted.append(message)


@contextmanager
def collecting_defects() -> Iterator[list[str]]:
    """Inside it data sets open although files are missing; yields the list of what they would refuse."""
    defects: list[str] = []
    token = _noted.set(defects)
    try:
        yield defects
    finally:
        _noted.reset(token)


def found(path: Path) -> Path | None:
    """`path` if there is such a file."""
    return path if path.is_file() else None
