"""Similarity of audio and video features before and after DAMF (paper Table VII): linear CKA, KL and JS divergence.

The paper names the three measures and does not define them. Our definitions:

* Before DAMF the two streams are F'_v, the output of SNRP, and F_a placed in the picture, the first
  form of the audio that has positions (figure 6 (c) and (d)). After DAMF they are F'_{a->v} and F'_{v->a} (equation 7,
  figure 6 (e) and (f)). Both streams are averaged onto the coarser of their two grids.
* CKA compares the features: linear CKA (Kornblith et al. 2019, equation 4) over all positions of all frames.
* KL and JS compare where the streams are active: each frame's map of energy (squared norm of the feature vector),
  divided by its sum, is a distribution over positions. Divergences are in nats, per frame, then averaged.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdavs_model.analysis.hooks import damf_modules, feature_norm, record_calls

STAGES = ("before", "after")
FLOOR = 1e-12
"""Smallest probability of a position: where one stream is zero the divergence stays finite."""


@dataclass(frozen=True)
class Streams:
    """Video and audio features of one level at one stage, on one grid: [B, T, C, h, w] each."""

    video: Tensor
    audio: Tensor

    @property
    def maps(self) -> tuple[Tensor, Tensor]:
        """Energy of each stream as distributions over positions: [B, T, h * w] each."""
        return spatial_distribution(self.video), spatial_distribution(self.audio)


@torch.inference_mode()
def level_streams(model: nn.Module, frames: Tensor, log_mel: Tensor) -> dict[str, dict[str, Streams]]:
    """Run a clip once and return {level: {"before": ..., "after": ...}}; level "1" is the largest.

    Args:
        model: an `SDAVS` in eval mode.
        frames: [B, T, 3, H, W]. log_mel: [B, T, 1, 96, 64].

    Raises:
        ValueError: the model has no DAMF.
    """
    modules = damf_modules(model)
    placements = {f"{level}/place": damf.place for level, damf in modules.items()}
    with record_calls({**modules, **placements}) as calls:
        model(frames, log_mel)
    found = {}
    for level in modules:
        fused_video, fused_audio = calls[level].output
        pairs = {
            "before": (calls[level].args[0], calls[f"{level}/place"].output),
            "after": (fused_video, fused_audio),
        }
        found[level] = {stage: Streams(*_on_one_grid(*pair)) for stage, pair in pairs.items()}
    return found


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment (CKA) of two sets of features of the same examples.

    ||Yc' Xc||_F^2 / (||Xc' Xc||_F ||Yc' Yc||_F), with centred columns: 1 for features that are equal up to
    rotation and scale, 0 for uncorrelated ones.

    Args:
        x: [n, C_x]. y: [n, C_y].

    Raises:
        ValueError: one of them is constant.
    """
    cka = LinearCKA()
    cka.update(x, y)
    return cka.compute()


class LinearCKA:
    """`linear_cka` over batches of examples; memory is one (C_x + C_y)^2 matrix."""

    def __init__(self) -> None:
        self._num = 0
        self._sums: Tensor | None = None  # [C_x + C_y]
        self._products: Tensor | None = None  # [C_x + C_y, C_x + C_y]
        self._split = 0

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add n examples. x: [n, C_x], y: [n, C_y]."""
        both = torch.cat([x, y], dim=1).double()
        sums, products = both.sum(0), both.T @ both
        self._sums = sums if self._sums is None else self._sums + sums
        self._products = products if self._products is None else self._products + products
        self._num += len(both)
        self._split = x.shape[1]

    def compute(self) -> float:
        """CKA of all examples so far.

        Raises:
            ValueError: as `linear_cka`.
        """
        assert self._sums is not None
        assert self._products is not None
        covariance = self._products - torch.outer(self._sums, self._sums) / self._num
        split = self._split
        own_x, own_y = covariance[:split, :split].norm(), covariance[split:, split:].norm()
        if min(own_x, own_y) <= FLOOR * self._products.norm():
            raise ValueError("CKA is undefined: the features are the same everywhere")
        return float(covariance[:split, split:].norm() ** 2 / (own_x * own_y))


def spatial_distribution(features: Tensor) -> Tensor:
    """Each position's fraction of a frame's energy: [..., C, h, w] -> [..., h * w], sums to 1."""
    energy = feature_norm(features).flatten(-2) ** 2 + FLOOR
    return energy / energy.sum(-1, keepdim=True)


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) = sum p log(p / q) in nats over the last dimension. p, q: [..., n] -> [...]."""
    p, q = p.clamp_min(FLOOR), q.clamp_min(FLOOR)
    return (p * (p / q).log()).sum(-1)


def js_divergence(p: Tensor, q: Tensor) -> Tensor:
    """(KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2: 0 for equal, log 2 for disjoint distributions."""
    middle = (p + q) / 2
    return (kl_divergence(p, middle) + kl_divergence(q, middle)) / 2


class LevelConsistency:
    """CKA, KL and JS of one level over a data set."""

    def __init__(self) -> None:
        self._cka = {stage: LinearCKA() for stage in STAGES}

    def update(self, found: dict[str, Streams]) -> dict[str, dict[str, float]]:
        """Add a clip's streams and return {stage: {"kl", "js"}} of this clip, means over its frames."""
        clip = {}
        for stage, pair in found.items():
            video, audio = (x.movedim(-3, -1).flatten(0, -2) for x in (pair.video, pair.audio))
            self._cka[stage].update(video, audio)
            p, q = pair.maps
            clip[stage] = {"kl": float(kl_divergence(p, q).mean()), "js": float(js_divergence(p, q).mean())}
        return clip

    def cka(self) -> dict[str, float]:
        """CKA over all positions so far, by stage."""
        return {stage: cka.compute() for stage, cka in self._cka.items()}


def _on_one_grid(video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    coarser = video if video.shape[-1] < audio.shape[-1] else audio
    return _shrink(video, coarser), _shrink(audio, coarser)


def _shrink(features: Tensor, like: Tensor) -> Tensor:
    height, width = like.shape[-2:]
    small = F.adaptive_avg_pool2d(features.flatten(0, 1), (height, width))
    return small.unflatten(0, features.shape[:2])
