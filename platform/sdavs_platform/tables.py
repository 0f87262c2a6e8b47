"""Tables of results as plain text, laid out by rich."""

import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

MAX_WIDTH = 1000
"""Characters; a table wider than the terminal is left to wrap there."""


def text_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns under a header: the first left-aligned, the others right-aligned.

    Args:
        header: one title a column; "\\n" makes it span several lines.
        rows: cells; floats get three decimals, NaN becomes "-", None stays empty.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    for number, title in enumerate(header):
        table.add_column(title, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(_cell, row))
    out = io.StringIO()
    Console(file=out, width=MAX_WIDTH, color_system=None, markup=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3f}"
    return str(value)
