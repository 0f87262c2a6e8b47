"""Help with a misspelt name: "did you mean ...?"."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, allowed: Iterable[str], *, at_most: int = 1) -> str:
    """`did you mean NAME?` with the nearest of the allowed names; empty if none is near."""
    near = difflib.get_close_matches(name, list(allowed), n=at_most)
    return f"did you mean {' or '.join(near)}?" if near else ""


def nearest_or_all(name: str, allowed: Iterable[str]) -> str:
    """The nearest of the allowed names as a question, or the list of all where none is near."""
    names = list(allowed)
    return did_you_mean(name, names) or f"allowed: {', '.join(names)}"
