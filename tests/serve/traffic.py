"""Constant load on an endpoint, with a look at every response: did it come, and is it that of the version it names?"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from stack import Stack, mask_of

# In proportion to the machine: a few threads are enough to keep two cores busy.
NUM_CLIENTS = 2


@dataclass(kw_only=True)
class Answers:
    """What the clients got."""

    statuses: Counter[int] = field(default_factory=Counter)
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    """[T, H, W] of each version's first response."""
    deviations: dict[str, float] = field(default_factory=dict)
    """Largest fraction of pixels by which a later response of the same version differs from its first one."""
    refusals: list[str] = field(default_factory=list)
    """Bodies of whatever was not a 200."""

    def add(self, version: str, masks: np.ndarray) -> None:
        first = self.masks.setdefault(version, masks)
        deviation = float((first != masks).mean())
        self.deviations[version] = max(self.deviations.get(version, 0.0), deviation)


@contextmanager
def traffic(stack: Stack, video: bytes, *, num_clients: int = NUM_CLIENTS) -> Iterator[Answers]:
    """The same clip again and again, from a few clients at once."""
    answers, over, lock = Answers(), threading.Event(), threading.Lock()

    def ask() -> None:
        while not over.is_set():
            answer = stack.post(video=video)
            with lock:
                answers.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    masks = np.array([mask_of(frame) for frame in answer.json()["frames"]])
                    answers.add(answer.headers["X-Model-Version"], masks)
                else:
                    answers.refusals.append(answer.text)

    clients = [threading.Thread(target=ask) for _ in range(num_clients)]
    for client in clients:
        client.start()
    try:
        yield answers
    finally:
        over.set()
        for client in clients:
            client.join()
