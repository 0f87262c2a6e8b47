"""Help with a misspelt dotted key; for plain names see `sdavs_model.suggestions`, which the model uses, too."""

from collections.abc import Sequence

from sdavs_model.suggestions import did_you_mean, nearest_or_all

__all__ = ["did_you_mean", "nearest_key", "nearest_or_all"]


def nearest_key(path: str, known: Sequence[str]) -> str:
    """What a dotted key was probably meant to be, as half a sentence.

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
