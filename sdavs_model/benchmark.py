"""Cost of a model: parameters, multiply-accumulates, time and memory."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sdavs_model.architectures import build_model
from sdavs_model.architectures.base import SegmentationModel
from sdavs_model.config import ModelConfig
from sdavs_model.costs import Cost, PartCost

# Linux records a process's peak resident size; writing 5 to clear_refs resets it (man 5 proc).
_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Inference time and memory of one clip on this machine; medians over the repeats."""

    clip_s: float
    """Seconds for one clip through the whole model."""
    backbone_s: float
    """Seconds for the same frames through the bare timm backbone."""
    ratio: float
    """Median of the ratios whole model / bare backbone, each of two consecutive runs."""
    cpu_ratio: float | None
    """The same of the CPU time of all threads, which other programs on the machine hardly change; None with cuda."""
    clips_per_s: float
    frames_per_s: float
    peak_memory_mb: float | None
    """Megabytes. cuda: allocated tensors. cpu: resident size of the process (Linux; None elsewhere)."""
    device: str
    num_threads: int
    """CPU threads of torch; with cuda they only launch kernels."""


def cost(config: ModelConfig) -> Cost:
    """Count parameters and multiply-accumulates of one clip of `config.num_frames` frames.

    Counted by torch's FlopCounterMode on the meta device: exact, within seconds and without memory. As in the
    paper's figures, elementwise products, normalisations and resizes do not count.
    """
    with torch.device("meta"):
        model = build_model(config.without_weights()).eval()
        frames, log_mel = example_clip(config)
    audio = _num_parameters(model.audio_encoder)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(frames, log_mel)
    by_module = counter.get_flop_counts()
    names = {id(module): f"{type(model).__name__}.{name}" for name, module in model.named_modules()}
    return Cost(
        parameters=_num_parameters(model) - audio,
        audio_encoder_parameters=audio,
        macs=counter.get_total_flops() // 2,
        backbone_macs=_macs(lambda: model.visual_encoder(frames[0])),
        parts={
            part: PartCost(
                parameters=sum(map(_num_parameters, modules)),
                macs=sum(sum(by_module.get(names[id(each)], {}).values()) for each in modules) // 2,
            )
            for part, modules in model.parts().items()
        },
    )


def speed(model: SegmentationModel, *, repeats: int, step: Callable[[], None] = lambda: None) -> Speed:
    """Time the whole model and its bare backbone in turn, one clip at a time.

    In turn, so that varying load of a shared machine affects both runs of a pair alike and hardly changes their
    ratio.

    Args:
        model: on the device to measure; put into eval mode.
        repeats: timed pairs of runs, after an untimed one.
        step: called after each pair, for a progress bar.
    """
    model.eval()
    device = next(model.parameters()).device
    frames, log_mel = (x.to(device) for x in example_clip(model.config))
    whole: list[_Time] = []
    bare: list[_Time] = []
    with torch.inference_mode():
        _reset_peak(device)
        _time(lambda: model(frames, log_mel), device)
        peak = _peak_memory_mb(device)
        _time(lambda: model.visual_encoder.backbone(frames[0]), device)
        for _ in range(repeats):
            bare.append(_time(lambda: model.visual_encoder.backbone(frames[0]), device))
            whole.append(_time(lambda: model(frames, log_mel), device))
            step()
    pairs = [*zip(whole, bare, strict=True)]
    clip_s = statistics.median(each.wall_s for each in whole)
    return Speed(
        clip_s=clip_s,
        backbone_s=statistics.median(each.wall_s for each in bare),
        ratio=statistics.median(w.wall_s / b.wall_s for w, b in pairs),
        cpu_ratio=None if device.type == "cuda" else statistics.median(w.cpu_s / b.cpu_s for w, b in pairs),
        clips_per_s=1 / clip_s,
        frames_per_s=model.config.num_frames / clip_s,
        peak_memory_mb=peak,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        num_threads=torch.get_num_threads(),
    )


def example_clip(config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Random frames [1, T, 3, S, S] and log_mel [1, T, 1, 96, 64], of the shape of the config's examples."""
    T, S = config.num_frames, config.image_size
    return torch.randn(1, T, 3, S, S), torch.randn(1, T, *config.preprocess.log_mel_shape)


def _num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _macs(forward: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    return counter.get_total_flops() // 2


@dataclass(frozen=True, kw_only=True)
class _Time:
    """Of one run: seconds by the clock, and CPU seconds of all threads of the process."""

    wall_s: float
    cpu_s: float


def _time(forward: Callable[[], object], device: torch.device) -> _Time:
    started, cpu_started = time.perf_counter(), time.process_time()
    forward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return _Time(wall_s=time.perf_counter() - started, cpu_s=time.process_time() - cpu_started)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")


def _peak_memory_mb(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if not _CLEAR_REFS.exists():
        return None
    high = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(high.split()[1]) * 1024 / 1e6
