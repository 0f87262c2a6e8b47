"""SNRP's gates, and the feature norms before and after it, over space and channels (paper IV-E and figure 8)."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdavs_model.analysis.hooks import feature_norm, record_calls, snrp_modules

NUM_BINS = 40


@dataclass(frozen=True)
class LevelResponse:
    """Gates and feature norms of one level for one clip."""

    before: Tensor
    """Feature norm of SNRP's input, [T, h, w]."""
    after: Tensor
    """Feature norm of its output, [T, h, w]."""
    spatial_gate: Tensor | None
    """w_s, [T, h, w] in (0, 1); None without the spatial selector."""
    channel_gate: Tensor | None
    """w_c, [T, C] in (0, 2), 1 is neutral; None without the channel selector."""

    def of_frames(self, chosen: Tensor) -> Self:
        """The chosen frames alone. chosen: [T] bool."""
        chosen = chosen.to(self.before.device)
        return type(self)(
            before=self.before[chosen],
            after=self.after[chosen],
            spatial_gate=None if self.spatial_gate is None else self.spatial_gate[chosen],
            channel_gate=None if self.channel_gate is None else self.channel_gate[chosen],
        )


@torch.inference_mode()
def snrp_responses(model: nn.Module, frames: Tensor, log_mel: Tensor) -> dict[str, LevelResponse]:
    """Run a clip once and return what SNRP did, by level; level "1" is the largest.

    Args:
        model: an `SDAVS` in eval mode.
        frames: [1, T, 3, H, W].
        log_mel: [1, T, 1, 96, 64].

    Raises:
        ValueError: the model has no SNRP.
    """
    modules = snrp_modules(model)
    with record_calls(modules) as calls:
        model(frames, log_mel)
    found = {}
    for name, call in calls.items():
        spatial, channel = call.output.spatial_gate, call.output.channel_gate
        found[name] = LevelResponse(
            before=feature_norm(call.args[0])[0],
            after=feature_norm(call.output.video)[0],
            spatial_gate=None if spatial is None else spatial[0, :, 0].float(),
            channel_gate=None if channel is None else channel[0].float(),
        )
    return found


def contrast(values: Tensor, mask: Tensor) -> float:
    """Mean over the sounding objects divided by the mean over the rest; NaN if one of the two is empty.

    Args:
        values: [T, h, w], 0 and above.
        mask: [T, H, W] of {0, 1}; averaged onto the grid of `values`.
    """
    inside = _object_fraction(mask, values)
    return float(_weighted_mean(values, inside) / _weighted_mean(values, 1 - inside))


class LevelDistribution:
    """Distributions of one level's gates over a data set."""

    def __init__(self) -> None:
        self._inside = torch.zeros(NUM_BINS)
        self._outside = torch.zeros(NUM_BINS)
        self._channel_gates: list[Tensor] = []

    @property
    def has_spatial(self) -> bool:
        """Whether the model has a spatial selector."""
        return bool(self._inside.sum() + self._outside.sum() > 0)

    @property
    def has_channels(self) -> bool:
        """Whether the model has a channel selector."""
        return bool(self._channel_gates)

    def update(self, found: LevelResponse, mask: Tensor, valid: Tensor) -> dict[str, float]:
        """Add a clip and return its contrasts of the feature norm (before, after) and of the spatial gate.

        Args:
            found: the clip's, of this level.
            mask: [T, H, W].
            valid: [T] bool, the frames that have a mask; the others are left out.
        """
        found, mask = found.of_frames(valid), mask[valid]
        row = {
            "contrast_before": contrast(found.before, mask),
            "contrast_after": contrast(found.after, mask),
        }
        if found.spatial_gate is not None:
            row["gate_contrast"] = contrast(found.spatial_gate, mask)
            inside = _object_fraction(mask, found.spatial_gate)
            bins = (found.spatial_gate * NUM_BINS).long().clamp(0, NUM_BINS - 1).flatten().cpu()
            self._inside.index_add_(0, bins, inside.flatten().cpu())
            self._outside.index_add_(0, bins, 1 - inside.flatten().cpu())
        if found.channel_gate is not None:
            self._channel_gates.append(found.channel_gate.cpu())
        return row

    def spatial_histogram(self) -> tuple[Tensor, Tensor]:
        """Histograms of w_s over positions, 40 bins over (0, 1): on sounding objects, and elsewhere. Each sums to 1."""
        return tuple(h / h.sum().clamp_min(1e-12) for h in (self._inside, self._outside))  # type: ignore[return-value]

    def channel_gates(self) -> Tensor:
        """w_c of all seconds, [seconds, C]."""
        return torch.cat(self._channel_gates)

    def numbers(self) -> dict[str, float]:
        """Means and standard deviations of both gates; those of a selector that the model lacks are absent.

        `channel_std_over_channels` says how much the channels differ, `channel_std_over_seconds` how much one
        channel's weight varies with the sound. Suppressed and enhanced are weights below 0.8 and above 1.2.
        """
        found: dict[str, float] = {}
        if self.has_spatial:
            middles = (torch.arange(NUM_BINS) + 0.5) / NUM_BINS
            inside, outside = self.spatial_histogram()
            found["spatial_mean_on_objects"] = float((inside * middles).sum())
            found["spatial_mean_elsewhere"] = float((outside * middles).sum())
        if self.has_channels:
            gates = self.channel_gates()
            found["channel_mean"] = float(gates.mean())
            found["channel_std_over_channels"] = float(gates.mean(0).std(correction=0))
            found["channel_std_over_seconds"] = float(gates.std(0, correction=0).mean())
            found["channel_share_suppressed"] = float((gates < 0.8).float().mean())
            found["channel_share_enhanced"] = float((gates > 1.2).float().mean())
        return found


def _object_fraction(mask: Tensor, like: Tensor) -> Tensor:
    """The object's fraction of each cell of a coarser grid: [T, H, W] -> [T, h, w]."""
    height, width = like.shape[-2:]
    return F.adaptive_avg_pool2d(mask.float(), (height, width)).to(like.device)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum()
