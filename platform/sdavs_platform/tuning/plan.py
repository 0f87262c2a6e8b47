"""Which trial comes next: a list that is known from the start, or Optuna's choice from the trials so far."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from sdavs_platform.config.tree import RunConfig
from sdavs_platform.tuning import space as spaces
from sdavs_platform.tuning.store import ENDED, TrialRecord
from sdavs_platform.tuning.study import Study, variant_values
from sdavs_platform.tuning.sweep import METRICS, SweepConfig


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A trial to run."""

    id: str
    number: int
    values: dict[str, Any] = field(default_factory=dict)
    variant: str | None = None


class Plan(Protocol):
    """A source of trials."""

    @property
    def num_left(self) -> int:
        """Trials that `next` will still give."""

    def next(self) -> Planned | None:
        """The next trial; None when there is none left."""

    def tell(self, record: TrialRecord) -> None:
        """A trial has ended."""


class ListPlan:
    """Trials that are known from the start."""

    def __init__(self, trials: Iterable[Planned]) -> None:
        self._left = list(trials)

    @property
    def num_left(self) -> int:
        """See `Plan`."""
        return len(self._left)

    def next(self) -> Planned | None:
        """See `Plan`."""
        return self._left.pop(0) if self._left else None

    def tell(self, record: TrialRecord) -> None:
        """Nothing is learned from it."""


class OptunaPlan:
    """TPE, also over several objectives (Watanabe 2023; Ozaki et al. 2022), continued from the trials on record.

    After a resume it knows the trials that ended and draws on; interrupted ones are run first, with their values.
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
        self._again = [_again(record) for record in records if record.state not in ENDED]
        self._number = 1 + max((record.number for record in records), default=-1)
        self._num_new = max(0, sweep.num_trials - len(records))
        for record in records:
            if record.state in ENDED:
                self.tell(record)

    @property
    def num_left(self) -> int:
        """See `Plan`."""
        return len(self._again) + self._num_new

    def next(self) -> Planned | None:
        """See `Plan`."""
        if self._again:
            return self._again.pop(0)
        if not self._num_new:
            return None
        self._num_new -= 1
        asked = self._study.ask(self._distributions)
        values = {key: d.from_optuna(asked.params[key]) for key, d in self._sweep.space.items()}
        planned = Planned(id=f"t{self._number:04d}", number=self._number, values=values)
        self._number += 1
        self._asked[planned.id] = asked
        return planned

    def tell(self, record: TrialRecord) -> None:
        """See `Plan`. A trial without a value teaches nothing but that it failed."""
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


def make_plan(
    sweep: SweepConfig, base: RunConfig, *, study: Study | None, records: list[TrialRecord]
) -> ListPlan | OptunaPlan:
    """The trials that are left to run.

    Args:
        records: trials of an earlier start; those that ended are not run again.

    Raises:
        ValueError: a combination of the space is no valid config; names it.
    """
    if sweep.search == "optuna":
        return OptunaPlan(sweep, base, records)
    known = {record.id: record for record in records}
    planned = planned_trials(sweep, base, study=study)
    return ListPlan(
        _again(known[trial.id]) if trial.id in known else trial
        for trial in planned
        if trial.id not in known or known[trial.id].state not in ENDED
    )


def planned_trials(sweep: SweepConfig, base: RunConfig, *, study: Study | None) -> list[Planned]:
    """All trials of a random or grid search, or of a study.

    Raises:
        ValueError: a combination is no valid config; names it.
    """
    if study is not None:
        # Seed by seed: when only the first is done, all variants can be compared already.
        return [
            Planned(
                id=f"{variant}-s{seed}",
                number=place * len(study.variants) + column,
                values=variant_values(variant, base) | {"seed": seed},
                variant=variant,
            )
            for place, seed in enumerate(sweep.seeds)
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
    return [Planned(id=f"t{n:04d}", number=n, values=values) for n, values in enumerate(points)]


def _again(record: TrialRecord) -> Planned:
    return Planned(
        id=record.id,
        number=record.number,
        values=record.values,
        variant=record.variant,
    )
