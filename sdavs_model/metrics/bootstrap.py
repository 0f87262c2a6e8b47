"""Confidence intervals of mean scores for clips that share the photographs and recordings they are composed of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Whether `value` is outside the interval."""
        return not self.low <= value <= self.high


def asset_interval(
    scores: Sequence[float],
    assets: Sequence[Sequence[str]],
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of the mean score of composed clips, by a bootstrap over their assets.

    Resampling clips would treat a hundred clips of two photographs as a hundred independent observations; what is to
    be generalised over are the assets. Each resample draws a weight for every asset, independent and exponential with
    mean 1 (the Bayesian bootstrap, Rubin 1981); a clip's weight is the product of its assets' weights (Owen and
    Eckles 2012, "Bootstrapping data arrays of arbitrary order"), and the statistic is the weighted mean of the scores.
    The limits are percentiles over the resamples. For clips of several assets the interval is conservative, that is,
    rather too wide.

    For the difference of two models on the same clips pass the differences of their scores.

    Args:
        scores: one a clip.
        assets: the assets of each clip by any name, such as `assets` in RealAV's records.
        confidence: fraction of resamples inside the interval.
        num_resamples: number of resamples.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: no clip, a clip without assets, or fewer than two assets in all.
    """
    if not scores or len(scores) != len(assets):
        raise ValueError(
            f"scores: {len(scores)} for the assets of {len(assets)} clips; both need one per clip"
        )
    values = np.asarray(scores, float)
    means = clip_weights(assets, num_resamples=num_resamples, rng=np.random.default_rng(seed)) @ values
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean=float(values.mean()), low=float(low), high=float(high))


def clip_weights(
    assets: Sequence[Sequence[str]], *, num_resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """[num_resamples, clips]: the weight of each clip in each resample of the assets; they sum to 1 in each.

    Args:
        assets: the assets of each clip by any name.

    Raises:
        ValueError: a clip without assets, or fewer than two assets in all.
    """
    if not all(assets):
        raise ValueError(f"assets: clip {[bool(own) for own in assets].index(False)} has none")
    names = sorted({name for own in assets for name in own})
    if len(names) < 2:
        raise ValueError(
            f"assets: all clips are made of only {names[0]!r}; an interval needs at least two assets"
        )
    number = {name: index for index, name in enumerate(names)}
    contains = np.zeros((len(assets), len(names)))
    for row, own in enumerate(assets):
        contains[row, [number[name] for name in own]] = 1
    log_weights = np.log(rng.exponential(size=(num_resamples, len(names))))
    weights = np.exp(log_weights @ contains.T)
    return weights / weights.sum(1, keepdims=True)
