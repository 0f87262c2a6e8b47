"""Compares a variant with the full model: paired differences with bootstrap intervals.

All variants are trained with the same seeds and order of clips and tested on the same clips, so scores are paired by
seed and clip. The interval resamples both (two-level percentile bootstrap; Efron and Tibshirani 1993, chapter 13) and
estimates the spread of the difference over other seeds and other clips of the same kind. Clips that share photographs
and recordings are not independent of each other: where these are recorded, they are resampled instead of the clips
(`sdavs_model.metrics.bootstrap`). With few seeds the interval mostly reflects the clips; the report gives their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdavs_model.metrics.bootstrap import clip_weights

NUM_RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A variant's score on one split, and how it differs from the reference."""

    mean: float
    """Mean over seeds of the mean over clips."""
    std: float | None
    """Standard deviation over seeds (with n - 1); None with one seed."""
    difference: float | None
    """Mean paired difference from the reference; None for the reference itself."""
    low: float | None
    high: float | None
    """Bounds of the difference's interval."""
    num_seeds: int
    """Seeds, or pairs of seeds."""
    num_clips: int
    num_assets: int | None = None
    """Photographs and recordings that were resampled; None where clips were."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def compare(
    scores: dict[int, list[float]],
    reference: dict[int, list[float]] | None,
    *,
    assets: Sequence[Sequence[str]] = (),
    seed: int = 0,
) -> Comparison:
    """Compare a variant with the reference over their common seeds.

    Args:
        scores: training seed -> score of every test clip.
        reference: the same of the full model; None for the full model itself.
        assets: what each clip is composed of; clips are resampled if one of them records nothing, or there are no
            two assets.
        seed: of the bootstrap.
    """
    means = [float(np.mean(clips)) for clips in scores.values()]
    difference, low, high = None, None, None
    num_seeds = len(scores)
    names = {name for own in assets for name in own}
    num_assets = len(names) if assets and all(assets) and len(names) > 1 else None
    common = sorted(scores.keys() & reference.keys()) if reference is not None else []
    if reference is not None and common:
        paired = np.array([np.subtract(scores[s], reference[s]) for s in common])  # [seeds, clips]
        low, high = interval(paired, assets=assets if num_assets else (), seed=seed)
        difference, num_seeds = float(paired.mean()), len(common)
    return Comparison(
        mean=float(np.mean(means)),
        std=float(np.std(means, ddof=1)) if len(means) > 1 else None,
        difference=difference,
        low=low,
        high=high,
        num_seeds=num_seeds,
        num_clips=len(next(iter(scores.values()))),
        num_assets=num_assets,
    )


def interval(
    paired: np.ndarray, *, assets: Sequence[Sequence[str]] = (), seed: int = 0
) -> tuple[float, float]:
    """The bootstrap interval of the mean of paired differences [seeds, clips], over seeds and assets, else clips."""
    rng = np.random.default_rng(seed)
    num_seeds, num_clips = paired.shape
    # How often each seed and each clip was drawn, as fractions; cheaper than copying the drawn rows.
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), NUM_RESAMPLES) / num_seeds
    if assets:
        clips = clip_weights(assets, num_resamples=NUM_RESAMPLES, rng=rng)
    else:
        clips = rng.multinomial(num_clips, np.full(num_clips, 1 / num_clips), NUM_RESAMPLES) / num_clips
    means = ((seeds @ paired) * clips).sum(1)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
