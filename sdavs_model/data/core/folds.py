"""The clips of a split divided into folds for cross-validation: each clip is held out once.

Clips that share a photograph or a recording, directly or through others, stay together, or a model would be scored on
what it has learned from. The division depends on the clips' names and what they are made of alone.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

FoldBy = Literal["assets", "clips"]

LARGEST = 1.5
"""Our choice: the size that a fold may have, relative to equal ones."""


def fold_of_clips(
    names: Sequence[str], assets: Sequence[Sequence[str]], *, num_folds: int, by: FoldBy = "assets"
) -> list[int]:
    """The fold of each clip, from 0.

    Args:
        names: of the clips, unique.
        assets: of each clip, what it is composed of; empty where that is not recorded.
        num_folds: number of folds, at least 2.
        by: "assets" keeps clips together that share an asset; "clips" divides them one by one.

    Raises:
        ValueError: there are fewer groups of clips than folds, or one group is too large for a fold.
    """
    group = list(range(len(names)))

    def root(clip: int) -> int:
        while group[clip] != clip:
            clip = group[clip]
        return clip

    if by == "assets":
        first: dict[str, int] = {}
        for clip, own in enumerate(assets):
            for asset in own:
                group[root(clip)] = root(first.setdefault(asset, clip))
    groups: dict[int, list[int]] = {}
    for clip in range(len(names)):
        groups.setdefault(root(clip), []).append(clip)
    largest = max(map(len, groups.values()), default=0)
    if len(groups) < num_folds or largest > LARGEST * len(names) / num_folds:
        raise ValueError(
            f"{largest} of {len(names)} clips share photographs or recordings, directly or through others, and can "
            "only be held out together"
            if by == "assets" and largest > 1
            else f"there are only {len(names)} clips"
        )

    def order(clips: list[int]) -> tuple[int, str]:
        return -len(clips), hashlib.sha256(min(names[clip] for clip in clips).encode()).hexdigest()

    sizes, folds = [0] * num_folds, [0] * len(names)
    for clips in sorted(groups.values(), key=order):
        fold = sizes.index(min(sizes))
        sizes[fold] += len(clips)
        for clip in clips:
            folds[clip] = fold
    return folds
