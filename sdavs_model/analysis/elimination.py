"""Whether the scores of a model that reports what it hears separate sounds on screen from sounds off screen.

`Heard.seen` is trained by masks alone: no label says who is off screen. Data sets that record second by second what
sounds on screen and off, such as RealAV, can test it. The measure is ours.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sdavs_model.architectures.base import Heard

Where = Literal["on screen", "off screen", "silent"]


@dataclass(frozen=True, kw_only=True)
class ScoredClass:
    """A class that a model reports to hear in a second, and whether it really sounds then."""

    second: int
    name: str
    where: Where
    """"silent": the class is near the sound and makes none."""
    seen: float
    distance: float


def scored_classes(
    heard: Heard,
    *,
    names: Sequence[str],
    on_screen: Sequence[Collection[str]],
    off_screen: Sequence[Collection[str]],
) -> Iterator[ScoredClass]:
    """A model's reports for one clip, with the record of what sounds.

    Args:
        heard: of a batch of one clip, [1, T, k].
        names: of the classes that `heard` indexes, `ModelConfig.heard_classes`.
        on_screen: the visible classes that sound, by second. One that also sounds off screen counts as on screen.
        off_screen: those that sound and are not visible, by second.
    """
    each = zip(heard.classes[0].tolist(), heard.seen[0].tolist(), heard.distances[0].tolist(), strict=True)
    for second, (classes, seen, distances) in enumerate(each):
        for index, score, distance in zip(classes, seen, distances, strict=True):
            name = names[index]
            where: Where = "silent"
            if name in on_screen[second]:
                where = "on screen"
            elif name in off_screen[second]:
                where = "off screen"
            yield ScoredClass(second=second, name=name, where=where, seen=score, distance=distance)


def separation(higher: Sequence[float], lower: Sequence[float]) -> float:
    """The area under the ROC curve: how often one of `higher` exceeds one of `lower`, ties counted half.

    1 separates them, 0.5 is chance. NaN if one of them is empty.
    """
    if not len(higher) or not len(lower):
        return float("nan")
    values = np.sort(np.asarray(lower, dtype=np.float64))
    below = np.searchsorted(values, higher, side="left")
    not_above = np.searchsorted(values, higher, side="right")
    return float((below + not_above).mean() / 2 / len(values))
