"""Golden clips: inputs stored with a model, and the logits that it gave for them when it was saved.

Whoever loads the model elsewhere (another machine, device or version of torch) runs them and compares the logits.
The inputs are preprocessed clips; their frames are kept as bytes and normalised when they are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save_file

from sdavs_model.architectures.base import SegmentationModel
from sdavs_model.artifact_files import GOLDEN_FILE
from sdavs_model.data.core.clip import SAMPLE_RATE, Clip
from sdavs_model.data.core.preprocess import Preprocessor


@dataclass(frozen=True, kw_only=True)
class Golden:
    """N clips of T frames with the model's logits."""

    frames: torch.Tensor
    """[N, T, S, S, 3] uint8, resized to the model's square."""
    log_mel: torch.Tensor
    """[N, T, 1, 96, 64] float32."""
    logits: torch.Tensor
    """[N, T, K, S, S] float32."""
    waveforms: torch.Tensor | None
    """[N, T * SAMPLE_RATE] float32, for models that preprocess sound in another way; None in older artifacts."""

    def clips(self) -> list[Clip]:
        """The clips as any model takes them; without their sound, `standard_clip` alone."""
        if self.waveforms is None:
            return [standard_clip(self.frames.shape[1])]
        return [
            Clip(name=f"golden clip {number}", frames=frames.numpy(), waveform=waveform.numpy())
            for number, (frames, waveform) in enumerate(zip(self.frames, self.waveforms, strict=True))
        ]


def record_golden(model: SegmentationModel, preprocessor: Preprocessor, clips: Sequence[Clip] = ()) -> Golden:
    """Run the model on `clips`, or on `standard_clip` if there are none, and keep inputs and logits.

    Args:
        model: on any device; its mode is left as it was.
        preprocessor: the model's own.
        clips: all of the same number of frames.
    """
    clips = clips or [standard_clip(model.config.num_frames)]
    frames = torch.stack([torch.from_numpy(preprocessor.squash(clip.frames)) for clip in clips])
    log_mel = torch.stack([preprocessor.log_mel(clip.waveform, clip.num_frames) for clip in clips])
    waveforms = torch.zeros(len(clips), frames.shape[1] * SAMPLE_RATE)
    for waveform, clip in zip(waveforms, clips, strict=True):
        sound = torch.tensor(clip.waveform[: len(waveform)])
        waveform[: len(sound)] = sound
    logits = _predict(model, preprocessor, frames, log_mel)
    return Golden(frames=frames, log_mel=log_mel, logits=logits, waveforms=waveforms)


def golden_difference(model: SegmentationModel, preprocessor: Preprocessor, golden: Golden) -> float:
    """Largest absolute difference of the model's logits from the stored ones, divided by the largest stored one.

    Infinite if the shapes differ or a logit is not finite.
    """
    logits = _predict(model, preprocessor, golden.frames, golden.log_mel)
    if logits.shape != golden.logits.shape or not torch.isfinite(logits).all():
        return float("inf")
    return float((logits - golden.logits).abs().max() / golden.logits.abs().max().clamp_min(1e-12))


def write_golden(folder: Path, golden: Golden) -> None:
    """Write `golden.safetensors`."""
    tensors = {"pictures": golden.frames, "log_mel": golden.log_mel, "logits": golden.logits}
    if golden.waveforms is not None:
        tensors["waveforms"] = golden.waveforms
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(folder / GOLDEN_FILE))


def parse_golden(content: bytes) -> Golden:
    """Golden clips from the bytes of `golden.safetensors`.

    Raises:
        ValueError: the bytes are not such a file.
    """
    try:
        tensors = load(content)
        return Golden(
            frames=tensors["pictures"],
            log_mel=tensors["log_mel"].float(),
            logits=tensors["logits"].float(),
            waveforms=tensors.get("waveforms"),
        )
    except Exception as error:  # safetensors raises types of its own that it does not export
        raise ValueError(f"{GOLDEN_FILE}: not readable: {error}") from error


def standard_clip(num_frames: int) -> Clip:
    """A synthetic clip, the same bytes on any machine: a bright square moving over a gradient, and a rising tone."""
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


def _predict(
    model: SegmentationModel, preprocessor: Preprocessor, frames: torch.Tensor, log_mel: torch.Tensor
) -> torch.Tensor:
    """Logits [N, T, K, S, S] float32 on the CPU, clip by clip as serving computes them."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            logits = [
                model(preprocessor.frames(clip.numpy())[None].to(device), sound[None].to(device))[0]
                for clip, sound in zip(frames, log_mel, strict=True)
            ]
            return torch.stack(logits).float().cpu()
    finally:
        model.train(was_training)
