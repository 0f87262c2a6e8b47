"""Read the csv tables of a data set's layout, and check that its files exist."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from sdavs_model.files import as_on_disk, composed, read_text

_noted: ContextVar[list[str] | None] = ContextVar("noted", default=None)


def read_rows(path: Path, columns: Mapping[str, int | None]) -> list[dict[str, str]]:
    """The rows of a csv with a header line, as {column: text}; accented letters composed (NFC).

    Read are UTF-8, UTF-16 and Windows's cp1252, with any ends of lines; columns are separated by commas, semicolons or
    tabs, as spreadsheets write them.

    Args:
        path: the file.
        columns: {name: position}; a column is the one with this name in the header, else the one at this
            position (from 0), else (None) it must have its name.

    Raises:
        ValueError: no such file, an empty one, or no text; a missing or ambiguous column, a short row. Names file,
            column and line.
    """
    if not path.is_file():
        raise ValueError(f"{path}: missing")
    rows = _cells(path, composed(read_text(path, "a table")), columns)
    header = [name.strip() for name in rows[0][1]] if rows else []
    positions = {name: _position(path, header, name, position) for name, position in columns.items()}
    for name, place in positions.items():
        if list(positions.values()).count(place) > 1:
            raise ValueError(f"{path}: needs the columns {', '.join(columns)}; there is none for {name!r}")
    for name, place in positions.items():
        values = {row[place].strip() for _, row in rows[1:] if place < len(row)}
        if name not in header and header[place] in values:
            raise ValueError(
                f"{path}: its first line is no header ({header[place]!r} is a value below, too); "
                f"begin with a line of column names: {', '.join(columns)}"
            )
    for number, row in rows[1:]:
        if len(row) <= max(positions.values()):
            raise ValueError(f"{path}: line {number} has too few columns")
    return [{name: row[place].strip() for name, place in positions.items()} for _, row in rows[1:]]


def list_values(path: Path, columns: Mapping[str, int | None], column: str) -> tuple[str, ...]:
    """The different values of one column, in the order of the file; raises as `read_rows` does."""
    return tuple(dict.fromkeys(row[column] for row in read_rows(path, columns)))


def find_layout(root: Path, name: str, table: str) -> Path:
    """`root` itself if it holds the table, else its folder `name`, where the table has to be then."""
    return root if (root / table).is_file() else root / name


def require_files(paths: Sequence[Path], what: str) -> None:
    """Raises ValueError naming the first of `paths` that is not there."""
    for path in dict.fromkeys(paths):
        if not path.is_file():
            refuse(f"{path}: missing, {what}")


def refuse(message: str) -> None:
    """Raises ValueError; inside `collecting_defects` the message is noted instead, and the search continues."""
    if (noted := _noted.get()) is None:
        raise ValueError(message)
    noted.append(message)


@contextmanager
def collecting_defects() -> Iterator[list[str]]:
    """Context manager in which data sets open although files are missing; yields the list of what they would refuse."""
    defects: list[str] = []
    token = _noted.set(defects)
    try:
        yield defects
    finally:
        _noted.reset(token)


def found(path: Path) -> Path | None:
    """`path`, as the disk spells it, if there is such a file."""
    path = as_on_disk(path)
    return path if path.is_file() else None


def _cells(path: Path, text: str, columns: Iterable[str]) -> list[tuple[int, list[str]]]:
    """The lines that are not empty, with their numbers, split at the separator that yields most of the columns."""
    marks = ",;\t"
    # Excel's own note of how the columns are separated.
    if (first := text.partition("\n")[0].strip()) in {f"sep={mark}" for mark in marks}:
        text, marks = text.partition("\n")[2], first[-1]
    readings = [_cut(path, text, mark) for mark in marks]

    def fits(rows: list[tuple[int, list[str]]]) -> tuple[int, int]:
        header = [cell.strip() for cell in rows[0][1]] if rows else []
        return sum(name in header for name in columns), len(header)

    return max(readings, key=fits)


def _cut(path: Path, text: str, mark: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num} cannot be read ({error})") from error


def _position(path: Path, header: list[str], name: str, position: int | None) -> int:
    if name in header:
        return header.index(name)
    if position is None or position >= len(header):
        raise ValueError(
            f"{path}: needs a header and a column {name!r}; it has {', '.join(header) or 'none'}"
        )
    return position
