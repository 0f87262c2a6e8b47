"""The content of a report as data, derived from the records on the storage."""

import shlex
from dataclasses import dataclass
from typing import Any

import yaml

from sdavs_model.recipes import recipes_of
from sdavs_platform.config.cli import yaml_text
from sdavs_platform.config.paths import absolute, state_folder
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.tuning.folds import FoldScores, fold_scores
from sdavs_platform.tuning.report.architecture_tables import ArchitectureTable, architecture_tables
from sdavs_platform.tuning.report.study_tables import NoiseTable, Table, ablation_tables, noise_tables
from sdavs_platform.tuning.space import with_values
from sdavs_platform.tuning.store import ENDED, SweepStore, TrialRecord
from sdavs_platform.tuning.study import Study, parse_study
from sdavs_platform.tuning.sweep import METRICS, SweepConfig, best_trial

MIN_TRIALS = 8
"""Our choice: with fewer trials the importances are noise."""

TARGET_QUANTILE = 0.25
"""Importance for reaching the best quarter. Our choice: Optuna's default, a tenth, needs more trials than most sweeps
have."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One sweep, ready to be displayed."""

    sweep: SweepConfig
    config: RunConfig
    """The config that the trials share."""
    study: Study | None
    trials: list[TrialRecord]
    command: list[str]
    data_digest: str
    git_commit: str
    best: TrialRecord | None
    """The best finished trial by the first objective."""
    importance: dict[str, dict[str, float]]
    """Objective -> key -> relative importance; empty if too few trials have ended."""
    tables: list[Table]
    noise: list[NoiseTable]
    architectures: list[ArchitectureTable]
    folds: FoldScores | None
    """Scores of a cross-validation."""

    @property
    def objective(self) -> str:
        """The objective that ranks the trials."""
        return self.sweep.objectives[0]

    @property
    def counts(self) -> dict[str, int]:
        """State -> number of trials, for the states that occur."""
        states = [trial.state for trial in self.trials]
        return {state: states.count(state) for state in dict.fromkeys(states)}

    @property
    def failures(self) -> list[TrialRecord]:
        """Trials that failed, with their reasons."""
        return [trial for trial in self.trials if trial.state == "failed"]

    @property
    def ranked(self) -> list[TrialRecord]:
        """All trials, the best first and those without a result last."""
        sign = -1 if METRICS[self.objective].mode == "max" else 1

        def rank(trial: TrialRecord) -> tuple[bool, float, int]:
            value = trial.best.get(self.objective)
            return (value is None, 0.0 if value is None else sign * value, trial.number)

        return sorted(self.trials, key=rank)

    @property
    def trade_off(self) -> tuple[str, str]:
        """Quality and cost of the Pareto front: the sweep's own objectives where it has such."""
        qualities = [name for name in self.sweep.objectives if METRICS[name].mode == "max"]
        costs = [name for name in self.sweep.objectives if METRICS[name].mode == "min"]
        return [*qualities, "val_miou"][0], [*costs, "latency_ms"][0]

    @property
    def front(self) -> list[TrialRecord]:
        """The Pareto front of `trade_off`, from cheap to expensive."""
        return pareto_front(self.trials, *self.trade_off)

    @property
    def keys(self) -> list[str]:
        """The dotted keys that vary between the trials."""
        return list(dict.fromkeys(key for trial in self.trials for key in trial.values))

    def searched(self) -> list[tuple[str, str]]:
        """Key and its values in words."""
        if self.study is not None:
            return [
                ("recipe", ", ".join(self.study.variants)),
                ("seed", ", ".join(map(str, self.sweep.seeds))),
            ]
        words = {"uniform": "from {} to {}", "integer": "{} to {}, whole"}
        words |= {"loguniform": "from {} to {}, logarithmic", "log_integer": "{} to {}, whole, logarithmic"}
        return [
            (
                key,
                ", ".join(map(yaml_text, d.extremes))
                if d.kind == "choice"
                else words[d.kind].format(*map(yaml_text, d.extremes)),
            )
            for key, d in self.sweep.space.items()
        ]

    def settings(self) -> list[tuple[str, str]]:
        """Search method, and the settings that all trials share."""
        training, cluster, model = self.config.training, self.config.cluster, self.config.model
        budget = f"{training.epochs} epochs"
        if training.max_minutes is not None:
            budget += f", at most {training.max_minutes:g} min"
        how: str = "every variant with every seed" if self.study else self.sweep.search
        if self.sweep.scheduler != "none":
            how += f", {self.sweep.scheduler}"
        return [
            ("search", how),
            ("objectives", "; ".join(METRICS[name].label for name in self.sweep.objectives)),
            ("budget of a trial", f"{budget}, batches of {training.batch_size} clips"),
            ("workers of a trial", f"{cluster.num_workers} ({'GPU' if cluster.use_gpu else 'CPU'})"),
            ("base model", f"{model.architecture} on {model.backbone}, {model.image_size} px"),
            ("data", f"{self.config.data.root}"),
            ("data digest", self.data_digest[:16]),
            ("commit", self.git_commit),
        ]

    @property
    def best_caveat(self) -> str | None:
        """Why the best values alone do not reproduce the best model; None if they do."""
        if self.sweep.scheduler != "pbt":
            return None
        return (
            "Population based training changed these values during training and let trials continue from each other's "
            "checkpoints. These are the last values; alone they do not reproduce this model. The tag "
            "sdavs.start_from of the trials' MLflow runs names the checkpoint that each continued from."
        )

    def best_values_yaml(self) -> str:
        """The values of the best trial as nested YAML."""
        nested: dict[str, Any] = {}
        for key, value in (self.best.values if self.best else {}).items():
            section_values = nested
            *sections, leaf = key.split(".")
            for section in sections:
                section_values = section_values.setdefault(section, {})
            section_values[leaf] = value
        return yaml.safe_dump(nested, sort_keys=False)

    def best_config_yaml(self) -> str:
        """The best trial's whole config for `--config`, with a new name."""
        assert self.best is not None
        config = with_values(self.config, self.best.values | {"name": f"{self.sweep.name}-best"})
        return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)

    def commands(self) -> list[tuple[str, str]]:
        """(purpose, command) of the commands that reproduce this sweep, its report and its best model."""
        listed = [("run or continue this sweep", shlex.join(self.command))]
        report = f"python jobs/report.py --sweep {self.sweep.name}"
        storage = self.config.storage.uri
        if storage is not None and storage != absolute(state_folder() / "results"):
            report += f" --storage-uri {shlex.quote(storage)}"
        listed.append(("build this report", report))
        if self.best is not None:
            flags = " ".join(f"--{key} {shlex.quote(yaml_text(v))}" for key, v in self.best.values.items())
            listed.append(
                (
                    "train the best configuration (save it as best.yaml, see above)",
                    f"python jobs/train.py --config best.yaml --name {self.sweep.name}-best",
                )
            )
            listed.append(
                ("train another config with the best values", f"python jobs/train.py --config FILE {flags}")
            )
        return listed


def summarize(store: SweepStore) -> Summary:
    """Read the records of a sweep.

    Raises:
        ValueError: there is no such sweep.
    """
    definition = store.definition()
    if definition is None:
        raise ValueError(f"--sweep: there is no sweep {store.name!r} at {store.uri}")
    sweep = SweepConfig.model_validate(definition["sweep"])
    config = RunConfig.model_validate(definition["config"])
    study = parse_study(sweep.study, config, sweep.models) if sweep.study else None
    book = recipes_of(config.model.architecture)
    trials = store.trials()
    splits = list(config.data.test_splits)
    return Summary(
        sweep=sweep,
        config=config,
        study=study,
        trials=trials,
        command=definition["command"],
        data_digest=definition["data_digest"],
        git_commit=definition["git_commit"],
        best=best_trial(sweep, trials),
        importance=importance(sweep, trials),
        tables=ablation_tables(study, book, trials, splits) if study else [],
        noise=noise_tables(study, trials, splits) if study else [],
        architectures=architecture_tables(study, trials, splits) if study else [],
        folds=fold_scores(trials),
    )


def pareto_front(trials: list[TrialRecord], quality: str, cost: str) -> list[TrialRecord]:
    """The trials that no other beats in both, from cheap to expensive; quality is better when larger."""
    scored = [
        t for t in trials if quality in t.best and cost in t.best and t.state in ("finished", "stopped")
    ]
    front: list[TrialRecord] = []
    for trial in sorted(scored, key=lambda t: (t.best[cost], -t.best[quality])):
        if not front or trial.best[quality] > front[-1].best[quality]:
            front.append(trial)
    return front


def importance(sweep: SweepConfig, trials: list[TrialRecord]) -> dict[str, dict[str, float]]:
    """Which keys decide how good a trial gets: PED-ANOVA (Watanabe et al. 2023), as Optuna computes it.

    Returns:
        Objective -> key -> relative importance, the largest first; empty if too few trials have ended.
    """
    ended = [t for t in trials if t.state in ENDED and all(name in t.best for name in sweep.objectives)]
    if len(sweep.space) < 2 or len(ended) < MIN_TRIALS:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: dimension.distribution() for key, dimension in sweep.space.items()}
    found = {}
    for objective in sweep.objectives:
        study = optuna.create_study(direction=METRICS[objective].direction)
        for trial in ended:
            params = {key: d.to_optuna(trial.values[key]) for key, d in sweep.space.items()}
            study.add_trial(
                optuna.create_trial(params=params, distributions=distributions, value=trial.best[objective])
            )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=TARGET_QUANTILE)
        found[objective] = dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    return found
