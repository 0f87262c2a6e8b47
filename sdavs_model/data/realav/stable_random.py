"""Random choices that are the same on any machine and with any version of numpy."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class StableRandom:
    """Integers from PCG64's raw stream.

    numpy promises that the raw stream of a bit generator never changes, and makes no such promise for the
    methods of `Generator` (NEP 19); so the few methods that the composer needs are written here.
    """

    def __init__(self, seed: Sequence[int]) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(list(seed)))

    def below(self, limit: int) -> int:
        """An integer in 0..limit-1."""
        return (int(self._bits.random_raw()) * limit) >> 64

    def between(self, low: int, high: int) -> int:
        """An integer in low..high, both included."""
        return low + self.below(high - low + 1)

    def percent(self, chance: int) -> bool:
        """True in `chance` of 100 cases."""
        return self.below(100) < chance

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items in random order."""
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in range(count)]

    def weighted(self, weights: Sequence[int]) -> int:
        """An index, as likely as its weight."""
        position = self.below(sum(weights))
        for index, weight in enumerate(weights):
            position -= weight
            if position < 0:
                return index
        raise AssertionError("unreachable: position is below the sum")
