"""The attention maps of DAMF, and both streams before and after it (paper figure 6)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sdavs_model.analysis.hooks import Call, damf_modules, feature_norm, record_calls, sounding_logits
from sdavs_model.architectures.sdavs.damf import DAMF, CrossModalAttention

VIDEO_BEFORE, AUDIO_BEFORE = "video before", "audio before"
AUDIO_QUERIES, VIDEO_QUERIES = "audio queries", "video queries"
VIDEO_AFTER, AUDIO_AFTER = "video after", "audio after"


@dataclass(frozen=True)
class DAMFMaps:
    """The maps of all levels ("1" is the largest) and the logits of the same forward pass."""

    levels: dict[str, dict[str, Tensor]]
    """Level -> name -> map [B, T, h, w].

    "video before", "audio before": feature norm of F'_v and of F_a placed in the picture, at each position.
    "audio queries" (audio-prompted attention), "video queries" (video-prompted): the fraction of the attention of
    all queries that each position of the keys receives; a direction that an ablation removed is absent.
    "video after", "audio after": feature norm of F'_{a->v} and F'_{v->a} (equation 7).
    """
    logits: Tensor
    """Logits of "sounds at all": [B, T, H, W]."""


@torch.inference_mode()
def damf_maps(model: nn.Module, frames: Tensor, log_mel: Tensor) -> DAMFMaps:
    """Run a clip once and collect the maps of every level.

    Args:
        model: an `SDAVS` in eval mode.
        frames: [B, T, 3, H, W].
        log_mel: [B, T, 1, 96, 64].

    Raises:
        ValueError: the model has no DAMF.
    """
    modules = damf_modules(model)
    with record_calls(_recorded_modules(modules)) as calls:
        logits = sounding_logits(model(frames, log_mel))
    return DAMFMaps({level: _level_maps(damf, level, calls) for level, damf in modules.items()}, logits)


def attention_received(query: Tensor, key: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) (equation 5), averaged over queries and heads.

    Args:
        query: [N, heads, n_q, d].
        key: [N, heads, n_k, d].

    Returns:
        [N, n_k]; sums to 1 over n_k.
    """
    received = torch.zeros(len(key), key.shape[2], device=key.device)
    # Head by head: all weights at once would take gigabytes at 384 px.
    for q, k in zip(query.float().unbind(1), key.float().unbind(1), strict=True):
        received += (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1).mean(1)
    return received / query.shape[1]


def concentration(distribution: Tensor) -> Tensor:
    """1 - H(p) / log(n) of a distribution over n positions: 0 is uniform, 1 is a single position.

    [..., n] -> [...].
    """
    entropy = torch.special.entr(distribution).sum(-1)
    return 1 - entropy / math.log(distribution.shape[-1])


def _attentions(damf: DAMF) -> dict[str, CrossModalAttention]:
    """The directions that the model has, by name."""
    both = {AUDIO_QUERIES: damf.audio_queries, VIDEO_QUERIES: damf.video_queries}
    return {name: attention for name, attention in both.items() if attention is not None}


def _recorded_modules(modules: dict[str, DAMF]) -> dict[str, nn.Module]:
    recorded: dict[str, nn.Module] = {}
    for level, damf in modules.items():
        recorded |= {level: damf, f"{level}/place": damf.place}
        for name, attention in _attentions(damf).items():
            parts = {"query": attention.query, "key": attention.key_value, "grid": attention.reduce}
            recorded |= {f"{level}/{name}/{part}": module for part, module in parts.items()}
    return recorded


def _level_maps(damf: DAMF, level: str, calls: dict[str, Call]) -> dict[str, Tensor]:
    fused_video, fused_audio = calls[level].output
    video, batch = calls[level].args[0], calls[level].args[0].shape[:2]
    maps = {VIDEO_BEFORE: feature_norm(video), AUDIO_BEFORE: feature_norm(calls[f"{level}/place"].output)}
    for name, attention in _attentions(damf).items():
        maps[name] = _received(attention, f"{level}/{name}", calls).unflatten(0, batch)
    return maps | {VIDEO_AFTER: feature_norm(fused_video), AUDIO_AFTER: feature_norm(fused_audio)}


def _received(attention: CrossModalAttention, name: str, calls: dict[str, Call]) -> Tensor:
    """[BT, h, w], on the grid of the keys."""
    query = calls[f"{name}/query"].output
    key = calls[f"{name}/key"].output.chunk(2, dim=-1)[0]
    heads = attention.num_heads
    split_query, split_key = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key))
    return attention_received(split_query, split_key).unflatten(-1, calls[f"{name}/grid"].output.shape[-2:])
