"""Where sound and picture look before, in and after DAMF (paper figure 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sdavs_model.analysis.taps import Call, damf_modules, record, response, sounding_logits
from sdavs_model.architectures.sdavs.damf import DAMF, CrossModalAttention

VIDEO_BEFORE, AUDIO_BEFORE = "video before", "audio before"
SOUND_ASKS, PICTURE_ASKS = "sound asks picture", "picture asks sound"
VIDEO_AFTER, AUDIO_AFTER = "video after", "audio after"


@dataclass(frozen=True)
class DAMFMaps:
    """The maps of all levels ("1" is the largest) and the answer they belong to."""

    levels: dict[str, dict[str, Tensor]]
    """Level -> map by name, [B, T, h, w] each. "video before" and "audio before": how strongly F'_v and the
    placed F_a respond at each position. "sound asks picture" and "picture asks sound": the share of the
    attention of all queries that each position of the source receives; the direction that an ablation left out
    is absent. "video after" and "audio after": the response of F'_{a->v} and F'_{v->a} (equation 7)."""
    logits: Tensor
    """Of "sounds at all": [B, T, H, W]."""


@torch.inference_mode()
def damf_maps(model: nn.Module, frames: Tensor, log_mel: Tensor) -> DAMFMaps:
    """Run a clip once.

    Args:
        model: an `SDAVS` in eval mode.
        frames: [B, T, 3, H, W]. log_mel: [B, T, 1, 96, 64].

    Raises:
        ValueError: the model has no DAMF.
    """
    modules = damf_modules(model)
    with record(_parts(modules)) as calls:
        logits = sounding_logits(model(frames, log_mel))
    return DAMFMaps({level: _level_maps(damf, level, calls) for level, damf in modules.items()}, logits)


def attention_received(query: Tensor, key: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) (equation 5), averaged over queries and heads.

    Args:
        query: [N, heads, n_q, d]. key: [N, heads, n_k, d].

    Returns:
        [N, n_k]; sums to 1.
    """
    received = torch.zeros(len(key), key.shape[2], device=key.device)
    # Head by head: all weights at once would be gigabytes at 384 px.
    for q, k in zip(query.float().unbind(1), key.float().unbind(1), strict=True):
        received += (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1).mean(1)
    return received / query.shape[1]


def concentration(shares: Tensor) -> Tensor:
    """1 - H(p) / log(n) of a distribution over n positions: 0 is even, 1 is a single position. [..., n] -> [...]."""
    entropy = torch.special.entr(shares).sum(-1)
    return 1 - entropy / math.log(shares.shape[-1])


def _parts(modules: dict[str, DAMF]) -> dict[str, nn.Module]:
    parts: dict[str, nn.Module] = {}
    for level, damf in modules.items():
        parts |= {level: damf, f"{level}/place": damf.place}
        for asks, attention in ((SOUND_ASKS, damf.audio_asks), (PICTURE_ASKS, damf.video_asks)):
            if attention is not None:
                own = {"query": attention.query, "key": attention.key_value, "grid": attention.reduce}
                parts |= {f"{level}/{asks}/{part}": module for part, module in own.items()}
    return parts


def _level_maps(damf: DAMF, level: str, calls: dict[str, Call]) -> dict[str, Tensor]:
    fused_video, fused_audio = calls[level].output
    video, batch = calls[level].args[0], calls[level].args[0].shape[:2]
    maps = {VIDEO_BEFORE: response(video), AUDIO_BEFORE: response(calls[f"{level}/place"].output)}
    for asks, attention in ((SOUND_ASKS, damf.audio_asks), (PICTURE_ASKS, damf.video_asks)):
        if attention is not None:
            maps[asks] = _received(attention, f"{level}/{asks}", calls).unflatten(0, batch)
    return maps | {VIDEO_AFTER: response(fused_video), AUDIO_AFTER: response(fused_audio)}


def _received(attention: CrossModalAttention, name: str, calls: dict[str, Call]) -> Tensor:
    """[BT, h, w] on the grid of the keys."""
    query = calls[f"{name}/query"].output
    key = calls[f"{name}/key"].output.chunk(2, dim=-1)[0]
    heads = attention.num_heads
    split_query, split_key = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key))
    return attention_received(split_query, split_key).unflatten(-1, calls[f"{name}/grid"].output.shape[-2:])
