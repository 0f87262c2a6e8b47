"""Progress of a training: the larger of the fractions of its steps and of its time."""

import time
from collections.abc import Callable

import torch
import torch.distributed as dist


class Clock:
    """Training time over all restarts.

    Args:
        started: of this process, by `now`.
        before_s: seconds of the processes before it.
        max_minutes: the budget, or None.
        now: seconds of a clock that only goes forward.
    """

    def __init__(
        self,
        *,
        started: float,
        before_s: float,
        max_minutes: float | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._started, self._before_s, self._max_minutes = started, before_s, max_minutes
        self._now = now

    @property
    def elapsed_s(self) -> float:
        """Seconds of training up to now."""
        return self._before_s + self._now() - self._started

    @property
    def fraction(self) -> float:
        """The fraction of the budget that is used up; 0 without a budget."""
        return 0.0 if self._max_minutes is None else self.elapsed_s / (self._max_minutes * 60)


class Pace:
    """The progress that the learning rate follows: without a time limit the fraction of all steps that are done.

    With one it is the larger of this and the fraction of the time, so that a training which the clock ends has decayed
    as one that reaches its last step. The workers agree on the time, and the checkpoint keeps it: all have the same
    learning rate, also after a resume.

    Args:
        total_steps: of the whole training.

    Attributes:
        time_fraction: of the time limit, as the workers last agreed on it.
    """

    def __init__(self, total_steps: int) -> None:
        self._total_steps = total_steps
        self.time_fraction = 0.0

    def progress(self, step: int) -> float:
        """The fraction of the training that is done before a step, counted from 0."""
        return max(step / self._total_steps, self.time_fraction)

    def agree(self, clock: Clock, *, device: torch.device | str) -> bool:
        """Take the time of the worker whose clock is furthest; returns whether it is up.

        Clocks differ by an instant, so all workers call this together.
        """
        fraction = torch.tensor(clock.fraction, dtype=torch.float64, device=device)
        if dist.is_initialized():
            dist.all_reduce(fraction, op=dist.ReduceOp.MAX)
        self.time_fraction = float(fraction)
        return self.time_fraction >= 1
