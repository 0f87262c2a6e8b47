"""Selects the next trial: from a list that is known in advance, or suggested by Optuna from the trials so far."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from sdavs_platform.config.tree import RunConfig
from sdavs_platform.tuning import space as spaces
from sdavs_platform.tuning.store import ENDED, TrialRecord
from sdavs_platform.tuning.study import Study
from sdavs_platform.tuning.sweep import METRICS, SweepConfig


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """A trial that is still to run."""

    id: str
    number: int
    values: dict[str, Any] = field(default_factory=dict)
    variant: str | None = None


class TrialQueue(Protocol):
    """Hands out the trials that are left to run."""

    @property
    def num_left(self) -> int:
        """How many trials `next` will still return."""

    def next(self) -> PlannedTrial | None:
        """The next trial; None when none is left."""

    def tell(self, record: TrialRecord) -> None:
        """Report that a trial has ended."""


class ListQueue:
    """Trials that are known in advance: a grid, a random search, a study."""

    def __init__(self, trials: Iterable[PlannedTrial]) -> None:
        self._left = list(trials)

    @property
    def num_left(self) -> int:
        """See `TrialQueue`."""
        return len(self._left)

    def next(self) -> PlannedTrial | None:
        """See `TrialQueue`."""
        return self._left.pop(0) if self._left else None

    def tell(self, record: TrialRecord) -> None:
        """Ignored: the list does not depend on results."""


class OptunaQueue:
    """Suggestions by TPE, also for several objectives (Watanabe 2023; Ozaki et al. 2022).

    A continued search learns from the recorded trials that ended. Interrupted trials are run first, with the values
    that they had.
    """

    def __init__(self, sweep: SweepConfig, base: RunConfig, records: list[TrialRecord]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep, self._base = sweep, base
        self._distributions = {key: dimension.distribution() for key, dimension in sweep.space.items()}
        self._study = optuna.create_study(
            directions=[METRICS[name].direction for name in sweep.objectives],
            sampler=optuna.samplers.TPESampler(
                seed=sweep.seed + len(records), multivariate=True, constant_liar=True
            ),
        )
        self._asked: dict[str, optuna.Trial] = {}
        self._to_repeat = [_planned_from(record) for record in records if record.state not in ENDED]
        self._number = 1 + max((record.number for record in records), default=-1)
        self._num_new = max(0, sweep.num_trials - len(records))
        for record in records:
            if record.state in ENDED:
                self.tell(record)

    @property
    def num_left(self) -> int:
        """See `TrialQueue`."""
        return len(self._to_repeat) + self._num_new

    def next(self) -> PlannedTrial | None:
        """See `TrialQueue`."""
        if self._to_repeat:
            return self._to_repeat.pop(0)
        if not self._num_new:
            return None
        self._num_new -= 1
        asked = self._study.ask(self._distributions)
        values = {key: d.from_optuna(asked.params[key]) for key, d in self._sweep.space.items()}
        planned = PlannedTrial(id=f"t{self._number:04d}", number=self._number, values=values)
        self._number += 1
        self._asked[planned.id] = asked
        return planned

    def tell(self, record: TrialRecord) -> None:
        """See `TrialQueue`. A trial without a value counts as failed."""
        import optuna

        best = record.best
        values = [best[name] for name in self._sweep.objectives if name in best]
        state = optuna.trial.TrialState.COMPLETE
        if len(values) < len(self._sweep.objectives):
            state, values = optuna.trial.TrialState.FAIL, []
        if asked := self._asked.pop(record.id, None):
            self._study.tell(asked, values or None, state=state)
            return
        params = {key: d.to_optuna(record.values[key]) for key, d in self._sweep.space.items()}
        self._study.add_trial(
            optuna.create_trial(
                params=params, distributions=self._distributions, values=values or None, state=state
            )
        )


def trial_queue(
    sweep: SweepConfig, base: RunConfig, *, study: Study | None, records: list[TrialRecord]
) -> ListQueue | OptunaQueue:
    """The trials that are left to run.

    Args:
        records: trials of earlier starts of this sweep; those that ended are not run again.

    Raises:
        ValueError: a combination of the space is not a valid config; names it.
    """
    if sweep.search == "optuna":
        return OptunaQueue(sweep, base, records)
    known = {record.id: record for record in records}
    planned = planned_trials(sweep, base, study=study)
    return ListQueue(
        _planned_from(known[trial.id]) if trial.id in known else trial
        for trial in planned
        if trial.id not in known or known[trial.id].state not in ENDED
    )


def planned_trials(sweep: SweepConfig, base: RunConfig, *, study: Study | None) -> list[PlannedTrial]:
    """All trials of a random or grid search, or of a study.

    Raises:
        ValueError: a combination is not a valid config; names it.
    """
    if study is not None:
        # Seed by seed: once the first seed is done, all variants can be compared.
        return [
            PlannedTrial(
                id=f"{variant}-s{seed}",
                number=row * len(study.variants) + column,
                values=study.values[variant] | {"seed": seed},
                variant=variant,
            )
            for row, seed in enumerate(sweep.seeds)
            for column, variant in enumerate(study.variants)
        ]
    if sweep.search == "grid":
        points = list(spaces.grid(sweep.space))
    else:
        points = [spaces.draw(sweep.space, seed=sweep.seed, number=n) for n in range(sweep.num_trials)]
    for values in points:
        try:
            spaces.with_values(base, values)
        except ValueError as error:
            raise ValueError(f"space: the combination {values} is not allowed: {error}") from None
    return [PlannedTrial(id=f"t{n:04d}", number=n, values=values) for n, values in enumerate(points)]


def _planned_from(record: TrialRecord) -> PlannedTrial:
    return PlannedTrial(id=record.id, number=record.number, values=record.values, variant=record.variant)
