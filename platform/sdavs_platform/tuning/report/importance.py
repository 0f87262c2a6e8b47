"""Which of the varied keys decides how good a trial gets: PED-ANOVA (Watanabe et al. 2023), as Optuna computes it."""

from sdavs_platform.tuning.store import ENDED, TrialRecord
from sdavs_platform.tuning.sweep import METRICS, SweepConfig

MIN_TRIALS = 8
"""Our choice: below it the shares are noise."""

TARGET_QUANTILE = 0.25
"""Importance for getting into the best quarter. Our choice: Optuna's tenth needs more trials than most sweeps have."""


def importance(sweep: SweepConfig, trials: list[TrialRecord]) -> dict[str, dict[str, float]]:
    """Objective -> key -> share of all keys' importance, the largest first; empty where it cannot be told."""
    ended = [t for t in trials if t.state in ENDED and all(name in t.best for name in sweep.objectives)]
    if len(sweep.space) < 2 or len(ended) < MIN_TRIALS:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: dimension.distribution() for key, dimension in sweep.space.items()}
    shares = {}
    for objective in sweep.objectives:
        study = optuna.create_study(direction=METRICS[objective].direction)
        for trial in ended:
            params = {key: d.to_optuna(trial.values[key]) for key, d in sweep.space.items()}
            study.add_trial(
                optuna.create_trial(params=params, distributions=distributions, value=trial.best[objective])
            )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=TARGET_QUANTILE)
        shares[objective] = dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    return shares
