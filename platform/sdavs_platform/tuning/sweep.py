"""The definition of a sweep: a search over a space or an ablation study, read from YAML or Python and validated."""

import runpy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from sdavs_model.suggestions import nearest_or_all
from sdavs_platform.config.cli import read_yaml, text_kinds
from sdavs_platform.config.tree import NAME, Section
from sdavs_platform.tuning.space import Dimension
from sdavs_platform.tuning.store import TrialRecord


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure that trials report and a search can optimise."""

    label: str
    mode: Literal["max", "min"]

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """The mode in Optuna's words."""
        return "maximize" if self.mode == "max" else "minimize"


METRICS: dict[str, Metric] = {
    "val_miou": Metric(label="J on the validation split", mode="max"),
    "val_fscore": Metric(label="F on the validation split", mode="max"),
    "latency_ms": Metric(label="time for one clip, ms", mode="min"),
    "gmacs": Metric(label="multiply-accumulates of one clip, G", mode="min"),
    "parameters_m": Metric(label="parameters without VGGish, M", mode="min"),
}

# Population based training can change these during a training; other keys need another network, other steps or
# other data.
CHANGEABLE = (
    "optimizer.lr",
    "optimizer.backbone_lr_factor",
    "optimizer.weight_decay",
    "optimizer.betas",
    "optimizer.grad_clip",
    "data.augment.",
)


class AshaConfig(Section):
    """Asynchronous successive halving: the worst trials end early (Li et al. 2020)."""

    grace_epochs: Annotated[int, Field(ge=1)] = 1
    """Epochs that every trial is trained for."""

    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    """At each rung the best 1/reduction_factor continue, to reduction_factor times as many epochs."""


class PbtConfig(Section):
    """Population based training: bad trials continue from good ones with changed values (Jaderberg et al. 2017)."""

    every_epochs: Annotated[int, Field(ge=1)] = 2
    """Epochs between exchanges; a multiple of training.val_every."""

    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Fraction of the population that is replaced, and fraction that it is replaced by."""


class SweepConfig(Section):
    """One sweep, without the config that it varies."""

    name: Annotated[str, Field(pattern=NAME, max_length=48)] = "sweep"
    """Identity: a sweep of the same name is continued."""

    base: dict[str, Any] = Field(default_factory=dict)
    """Keys of the config tree that all trials share; they override --config, and --section.key flags override them."""

    space: dict[str, Dimension] = Field(default_factory=dict)
    """Dotted key of the config tree -> its values."""

    study: str | None = None
    """Instead of a space: `ablation/tables` (III to VIII), `ablation/III,VI`, `ablation/full,rm_add`, `noise`,
    `architectures`, or some of these: `architectures/sdavs,tpavi`; `folds/5`: cross-validation."""

    models: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """For the study `architectures`: architecture -> keys of its section `model`, on top of those that it has in common
    with the base config."""

    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    """Seeds that every variant of a study is trained with."""

    search: Literal["random", "grid", "optuna"] = "random"
    """How values are chosen: at random, all combinations, or by Optuna's TPE from earlier trials."""

    scheduler: Literal["none", "asha", "pbt"] = "none"
    """Ends trials early (asha) or changes their values during training (pbt)."""

    objectives: Annotated[tuple[str, ...], Field(min_length=1)] = ("val_miou",)
    """What is optimised; the first ranks the trials and drives the scheduler, several make a Pareto front."""

    num_trials: Annotated[int, Field(ge=1)] = 20
    """Trials of a random or Optuna search."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seeds the choice of values; a training's own seed is the key `seed` of the config tree."""

    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    """Trials at once. Unset: as many as fit into the cluster, which is also the upper limit."""

    retries: Annotated[int, Field(ge=0)] = 1
    """How often a failed trial is retried, from its last checkpoint."""

    register_best: bool = True
    """Register the best trial's model, or the ensemble of all folds, with the alias `candidate`."""

    asha: AshaConfig = AshaConfig()
    """Settings of scheduler asha."""

    pbt: PbtConfig = PbtConfig()
    """Settings of scheduler pbt."""

    @model_validator(mode="after")
    def _has_something_to_do(self) -> "SweepConfig":
        if not self.space and self.study is None:
            raise ValueError("space: is empty; name at least one key of the config tree, or give a study")
        if self.space and self.study is not None:
            raise ValueError("study: a sweep has a space or a study, not both")
        if self.study is not None and (self.search, self.scheduler) != ("random", "none"):
            raise ValueError("study: trains every variant to the end; remove search and scheduler")
        if self.models and (self.study or "").partition("/")[0] != "architectures":
            raise ValueError("models: only the study `architectures` reads it")
        repeated = [seed for seed, count in Counter(self.seeds).items() if count > 1]
        if repeated:
            raise ValueError(f"seeds: {repeated[0]} is given more than once")
        if self.space and self.seeds != (0,):
            raise ValueError("seeds: belong to a study; in a space, vary `seed: {choice: [0, 1]}`")
        return self

    @model_validator(mode="after")
    def _objectives_are_metrics(self) -> "SweepConfig":
        for name, count in Counter(self.objectives).items():
            if name not in METRICS:
                raise ValueError(f"objectives: no metric {name!r}; {nearest_or_all(name, METRICS)}")
            if count > 1:
                raise ValueError(f"objectives: {name} is given more than once")
        if self.scheduler != "none" and not self.objectives[0].startswith("val_"):
            raise ValueError(
                "objectives: a scheduler needs a first objective that changes while training, such as val_miou"
            )
        return self

    @model_validator(mode="after")
    def _search_fits_space(self) -> "SweepConfig":
        ranges = [key for key, dimension in self.space.items() if dimension.kind != "choice"]
        if self.search == "grid" and ranges:
            raise ValueError(f"space.{ranges[0]}: a grid needs `choice`; a range has infinitely many values")
        if self.scheduler == "pbt":
            if self.search != "random":
                raise ValueError("search: pbt changes the values itself; allowed: random")
            rigid = [key for key in self.space if not key.startswith(CHANGEABLE)]
            if rigid:
                raise ValueError(
                    f"space.{rigid[0]}: cannot change during a training, as pbt does; "
                    f"allowed: {', '.join(CHANGEABLE)}"
                )
        return self


def load_sweep(path: Path | None, changes: Mapping[str, Any]) -> SweepConfig:
    """A definition from a YAML file, or a Python file whose function `sweep()` returns one, with some keys overridden.

    Raises:
        ValueError: no such file or function; or one line per wrong key.
    """
    values = {} if path is None else _read(path)
    try:
        return SweepConfig.model_validate({**values, **changes})
    except ValidationError as error:
        raise ValueError("\n".join(_explained(e) for e in error.errors(include_url=False))) from None


def best_trial(sweep: SweepConfig, trials: list[TrialRecord]) -> TrialRecord | None:
    """The finished trial that is best by the first objective; None if none has finished."""
    objective = sweep.objectives[0]
    sign = 1 if METRICS[objective].mode == "max" else -1
    finished = [trial for trial in trials if trial.state == "finished" and objective in trial.best]
    return max(finished, key=lambda trial: sign * trial.best[objective], default=None)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"--sweep: there is no file {path}")
    if path.suffix != ".py":
        base = {f"base.{key}": kind for key, kind in text_kinds().items()}
        return read_yaml(path, base | {"name": "text"})
    make = runpy.run_path(str(path)).get("sweep")
    if not callable(make):
        raise ValueError(f"{path}: has no function sweep() that returns the definition")
    made = make()
    return made.model_dump(mode="json") if isinstance(made, SweepConfig) else dict(made)


def _explained(error: Any) -> str:
    """One line for one pydantic error."""
    *sections, leaf = (str(part) for part in error["loc"]) if error["loc"] else [""]
    path = ".".join([*sections, leaf])
    if error["type"] == "extra_forbidden":
        owners: dict[str, type[Section]] = {"asha": AshaConfig, "pbt": PbtConfig, "space": Dimension}
        owner = owners.get("".join(sections[:1]), SweepConfig)
        return f"{path}: unknown key; {nearest_or_all(leaf, owner.model_fields)}"
    if error["type"] == "value_error":
        return f"{path}: {error['ctx']['error']}" if path else str(error["ctx"]["error"])
    return f"{path}: {error['input']!r} is not allowed: {error['msg'][0].lower()}{error['msg'][1:]}"
