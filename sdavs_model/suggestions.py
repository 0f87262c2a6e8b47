"""Help with a misspelt name: "did you mean ...?"."""

import difflib
from collections.abc import Iterable, Sequence


def did_you_mean(name: str, allowed: Iterable[str], *, at_most: int = 1) -> str:
    """`did you mean NAME?` with the nearest of the allowed names; empty if none is near."""
    near = difflib.get_close_matches(name, list(allowed), n=at_most)
    return f"did you mean {' or '.join(near)}?" if near else ""


def nearest_or_all(name: str, allowed: Iterable[str]) -> str:
    """The nearest of the allowed names as a question, or the list of all where none is near."""
    names = list(allowed)
    return did_you_mean(name, names) or f"allowed: {', '.join(names)}"


def nearest_key(path: str, known: Sequence[str]) -> str:
    """The key that a misspelt dotted key was probably meant to be, as half a sentence.

    Args:
        known: all keys, such as `optimizer.lr`; their sections count as well.
    """
    sections = sorted({name.rsplit(".", 1)[0] for name in known if "." in name})
    if hint := did_you_mean(path, [*known, *sections]):
        return hint
    parent, _, leaf = path.rpartition(".")
    if elsewhere := [name for name in known if name.rpartition(".")[2] == leaf]:
        return f"did you mean {elsewhere[0]}?"
    siblings = [name for name in [*known, *sections] if name.rpartition(".")[0] == parent]
    return f"allowed: {', '.join(siblings or sections)}"
