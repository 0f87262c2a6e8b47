"""The csv files that list a data set's videos: columns by name, and by position where the header has other names."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path


def read_rows(path: Path, columns: Mapping[str, int | None]) -> list[dict[str, str]]:
    """The rows of a csv with a header line, as {column: text}.

    Args:
        path: the file.
        columns: {name: position}; a column is the one with this name in the header, else the one at this
            position (from 0), else (None) it must have its name.

    Raises:
        ValueError: no such file, a missing or ambiguous column, a short row; names file, column and line.
    """
    if not path.is_file():
        raise ValueError(f"{path}: missing")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    header = [name.strip() for name in rows[0][1]] if rows else []
    places = {name: _place(path, header, name, position) for name, position in columns.items()}
    for name, place in places.items():
        if list(places.values()).count(place) > 1:
            raise ValueError(f"{path}: needs the columns {', '.join(columns)}; {name!r} has none of its own")
    for number, row in rows[1:]:
        if len(row) <= max(places.values()):
            raise ValueError(f"{path}: line {number} has too few columns")
    return [{name: row[place].strip() for name, place in places.items()} for _, row in rows[1:]]


def list_values(path: Path, columns: Mapping[str, int | None], column: str) -> tuple[str, ...]:
    """The different values of one column, in the order of the file; raises as `read_rows` does."""
    return tuple(dict.fromkeys(row[column] for row in read_rows(path, columns)))


def folder_of(root: Path, name: str, table: str) -> Path:
    """`root` itself if it holds the table, else its folder `name`, where the table then has to be."""
    return root if (root / table).is_file() else root / name


def _place(path: Path, header: list[str], name: str, position: int | None) -> int:
    if name in header:
        return header.index(name)
    if position is None or position >= len(header):
        raise ValueError(
            f"{path}: needs a header and a column {name!r}; it has {', '.join(header) or 'none'}"
        )
    return position
