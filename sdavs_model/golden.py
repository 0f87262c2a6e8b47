"""Golden clips: inputs stored with a model and what it answered when it was saved.

Whoever loads the model elsewhere (another machine, another device, another version of torch) runs them and
sees whether it still is the model that was saved. The inputs are what preprocessing made of real clips, so
pictures are kept as bytes and normalised on reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load, save_file

from sdavs_model.data.core.clip import SAMPLE_RATE, Clip

if TYPE_CHECKING:
    from sdavs_model.architectures.sdavs.model import SDAVS
    from sdavs_model.data.core.preprocess import Preprocessor

GOLDEN_FILE = "golden.safetensors"


@dataclass(frozen=True, kw_only=True)
class Golden:
    """N clips of T frames with the model's answers."""

    pictures: torch.Tensor
    """[N, T, S, S, 3] uint8, squashed to the model's square."""
    log_mel: torch.Tensor
    """[N, T, 1, 96, 64] float32."""
    logits: torch.Tensor
    """[N, T, K, S, S] float32."""


def record_golden(model: SDAVS, preprocessor: Preprocessor, clips: Sequence[Clip] = ()) -> Golden:
    """What the model answers to `clips`, or to `standard_clip` if there are none.

    Args:
        model: on any device; its mode is left as it was.
        preprocessor: the model's own.
        clips: each of the same number of frames.
    """
    clips = clips or [standard_clip(model.config.num_frames)]
    pictures = torch.stack([torch.from_numpy(preprocessor.squash(clip.frames)) for clip in clips])
    log_mel = torch.stack([preprocessor.log_mel(clip.waveform, clip.num_frames) for clip in clips])
    return Golden(pictures=pictures, log_mel=log_mel, logits=_answers(model, preprocessor, pictures, log_mel))


def golden_difference(model: SDAVS, preprocessor: Preprocessor, golden: Golden) -> float:
    """Largest difference of the model's logits now from the stored ones, relative to the largest stored one.

    Infinite where the model answers with other shapes or with numbers that are not finite.
    """
    answers = _answers(model, preprocessor, golden.pictures, golden.log_mel)
    if answers.shape != golden.logits.shape or not torch.isfinite(answers).all():
        return float("inf")
    return float((answers - golden.logits).abs().max() / golden.logits.abs().max().clamp_min(1e-12))


def write_golden(folder: Path, golden: Golden) -> None:
    """Store them as `golden.safetensors`."""
    tensors = {"pictures": golden.pictures, "log_mel": golden.log_mel, "logits": golden.logits}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(folder / GOLDEN_FILE))


def parse_golden(content: bytes) -> Golden:
    """Golden clips from a file's bytes.

    Raises:
        ValueError: not such a file.
    """
    try:
        tensors = load(content)
        return Golden(
            pictures=tensors["pictures"], log_mel=tensors["log_mel"].float(), logits=tensors["logits"].float()
        )
    except Exception as error:  # safetensors raises types of its own that it does not export
        raise ValueError(f"{GOLDEN_FILE}: not readable: {error}") from error


def standard_clip(num_frames: int) -> Clip:
    """A bright square that moves over a gradient, and a tone that rises: the same bytes everywhere."""
    side = 64
    ramp = np.linspace(0, 200, side)
    frames = np.empty((num_frames, side, side, 3), np.uint8)
    frames[..., 0], frames[..., 1], frames[..., 2] = ramp[None], ramp[:, None], 90
    for index in range(num_frames):
        left = 4 + 8 * (index % 6)
        frames[index, 20:36, left : left + 16] = (250, 210, 60)
    time = np.arange(num_frames * SAMPLE_RATE) / SAMPLE_RATE
    waveform = (0.5 * np.sin(2 * np.pi * (220 + 110 * time) * time)).astype(np.float32)
    return Clip(name="standard clip", frames=frames, waveform=waveform)


def _answers(
    model: SDAVS, preprocessor: Preprocessor, pictures: torch.Tensor, log_mel: torch.Tensor
) -> torch.Tensor:
    """[N, T, K, S, S] float32 on the CPU, clip by clip as serving answers them."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            answers = [
                model(preprocessor.frames(clip.numpy())[None].to(device), sound[None].to(device))[0]
                for clip, sound in zip(pictures, log_mel, strict=True)
            ]
            # Cloned outside inference mode's tensors: safetensors and autograd both take plain ones.
            return torch.stack(answers).float().cpu()
    finally:
        model.train(was_training)
