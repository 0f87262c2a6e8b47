"""Check SDAVS on one CUDA GPU: numbers, speed, memory, a short training, DeepSpeed.

    make gpu-check                                              under 8 minutes
    python infra/check/gpu.py --out gpu                         the same; torch, timm and torchaudio are enough
    python infra/check/gpu.py --parts numerics inference        some parts only
    python infra/check/gpu.py --device cpu --tiny --out /tmp/x  a rehearsal without a GPU

Writes gpu_check.json and gpu_check.md to --out after every measurement, so a run that is cut off leaves what it has
measured. A part whose libraries are missing is not run; a measurement that fails does not keep the next from running.
Compilation, which takes most of the time, comes last.
"""

import argparse
import dataclasses
import functools
import gc
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "platform"), str(Path(__file__).resolve().parent)]
# Before DeepSpeed looks for a compiler of extensions that are not used.
os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")

import torch  # noqa: E402
from gpu_report import OutOfTime, Report  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from sdavs_model import SDAVS, SDAVSConfig, build_model  # noqa: E402
from sdavs_model.accumulation import accumulated_loss  # noqa: E402
from sdavs_model.benchmark import cost  # noqa: E402
from sdavs_model.compilation import compile_in_parts  # noqa: E402
from sdavs_model.lean_timm import timm  # noqa: E402
from sdavs_model.metrics import ObjectMetrics  # noqa: E402
from sdavs_model.precision import cast  # noqa: E402
from sdavs_model.training_step import training_loss  # noqa: E402

PAPER_FRAMES_PER_S = 31.2
"""Frames/s of SDAVS with Swin-B in Table X, on the authors' GPU."""


@dataclass(frozen=True)
class Sizes:
    """Sizes and repetitions of the measurements."""

    backbones: tuple[str, ...] = ("swin_base_patch4_window12_384", "pvt_v2_b5")
    image_size: int = 384
    width: int = 256
    num_frames: int = 5
    batches: tuple[int, ...] = (1, 4, 16)
    training_batch: int = 8
    matrix: int = 8192
    repeats: int = 10
    compiles: bool = True
    """The rehearsal does not: tracing the model takes most of a minute, and `tests/model/test_compile.py` does it."""
    clips: tuple[int, int] = (400, 40)
    """Number of training and validation clips of the short training."""
    training_steps: int = 1200
    zero_stages: tuple[int, ...] = (0, 1, 2, 3)

    def config(self, backbone: str) -> SDAVSConfig:
        return SDAVSConfig(
            backbone=backbone,
            image_size=self.image_size,
            width=self.width,
            num_frames=self.num_frames,
            vggish_width=1.0 if self.width == 256 else 0.05,
            num_heads=self.width // 32 or 1,
        )


TINY = Sizes(
    backbones=("test_convnext2",),
    image_size=32,
    width=16,
    num_frames=2,
    batches=(2,),
    training_batch=4,
    matrix=64,
    repeats=2,
    compiles=False,
    clips=(4, 3),
    training_steps=3,
    zero_stages=(2,),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "gpu_check", help="folder of the results"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, for a rehearsal")
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit (default: %(default)g)")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS], metavar="PART")
    flags = parser.parse_args()
    if flags.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: torch finds no CUDA device; a rehearsal runs with --device cpu --tiny")
    device = torch.device(flags.device)
    sizes = TINY if flags.tiny else Sizes()
    report = Report(flags.out, device=device, minutes=flags.minutes)
    for name in flags.parts:
        report.part(name, "running")
        num_failures = len(report.failures)
        try:
            with report.guarded(name):
                PARTS[name](report, sizes, device)
            report.part(name, "done" if len(report.failures) == num_failures else "failed in part")
        except OutOfTime:
            report.part(name, "cut short: the time limit")
        except ImportError as error:
            report.part(name, f"not run: {error}")
        print(f"{name:<12} {report.parts[name]}", flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(f"{flags.out}: gpu_check.json, gpu_check.md", flush=True)
    return 0 if report.is_good else 1


def check_numerics(report: Report, sizes: Sizes, device: torch.device) -> None:
    """Forward, backward, losses and metrics against fp32 on the CPU."""
    allows = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        for backbone in sizes.backbones:
            report.require_time(30)
            with report.guarded(f"numerics of {backbone}"):
                _compare_numbers(report, sizes, device, backbone)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allows


def _compare_numbers(report: Report, sizes: Sizes, device: torch.device, backbone: str) -> None:
    config = dataclasses.replace(sizes.config(backbone), num_frames=2)
    expected = _forward_and_backward(config, torch.device("cpu"), torch.float32)
    for dtype, logits_within, cosine, j_within in (
        (torch.float32, 2e-3, 0.999, 0.005),
        (torch.bfloat16, 0.1, 0.9, 0.05),
    ):
        found = _forward_and_backward(config, device, dtype)
        name = f"{backbone} {str(dtype).removeprefix('torch.')}"
        scale = expected["logits"].abs().max()
        difference = float((found["logits"] - expected["logits"]).abs().max() / scale)
        report.add(f"{name}: difference of logits", difference, "of the largest", at_most=logits_within)
        loss = abs(float(found["loss"] - expected["loss"])) / float(expected["loss"])
        report.add(f"{name}: difference of the loss", loss, "relative", at_most=logits_within)
        similarity = torch.cosine_similarity(found["gradient"], expected["gradient"], dim=0)
        report.add(f"{name}: cosine of the gradients", float(similarity), at_least=cosine)
        report.add(f"{name}: difference of J", abs(found["j"] - expected["j"]), at_most=j_within)


def check_inference(report: Report, sizes: Sizes, device: torch.device) -> None:
    """Eager inference, and the measured rate of matrix products."""
    report.add(f"bf16 matrix product {sizes.matrix}", _matrix_rate(sizes, device) / 1e12, "TFLOP/s")
    for backbone in sizes.backbones:
        report.require_time(20)
        with report.guarded(f"inference of {backbone}"):
            model = _inference_model(sizes.config(backbone), device)
            for batch in sizes.batches:
                speed = _frames_per_s(model, sizes, device, backbone, batch)
                report.add(f"{_at(sizes, backbone, batch)}: eager", speed, "frames/s")


def check_compiled(report: Report, sizes: Sizes, device: torch.device) -> None:
    """Compiled inference against eager, the bare compiled backbone and the measured rate of matrix products.

    The largest batch first: its graphs serve every other but a single clip, for which some parts compile once more.
    """
    rate = _matrix_rate(sizes, device)
    for backbone in sizes.backbones:
        report.require_time(60)
        with report.guarded(f"compiled inference of {backbone}"):
            config = sizes.config(backbone)
            flops = 2 * cost(config).macs / config.num_frames  # of a frame
            model = _inference_model(config, device)
            batches = sorted(sizes.batches, reverse=True)
            eager = {batch: _frames_per_s(model, sizes, device, backbone, batch) for batch in batches}
            if sizes.compiles:
                compile_in_parts(model)
            for batch in batches:
                report.require_time(20)
                name, measured = _at(sizes, backbone, batch), (sizes, device, backbone, batch)
                started = time.perf_counter()
                fast = _frames_per_s(model, *measured)
                report.add(f"{name}: with compilation", time.perf_counter() - started, "s")
                report.add(f"{name}: compiled", fast, "frames/s", at_least=30 * PAPER_FRAMES_PER_S)
                report.add(f"{name}: gain of compilation", fast / eager[batch], "x", at_least=1.6)
                report.add(f"{name}: of the matrix rate", fast * flops / rate, at_least=0.35)
                alone = _frames_per_s(model.visual_encoder.backbone, *measured, backbone_only=True)
                report.add(f"{name}: bare compiled backbone", alone, "frames/s")
                report.add(f"{name}: whole / bare", fast / alone, at_least=0.77)


def _inference_model(config: SDAVSConfig, device: torch.device) -> Any:
    model = build_model(config).eval().to(device)
    cast(model, torch.bfloat16)
    return model


def _frames_per_s(
    run: Callable[..., Any],
    sizes: Sizes,
    device: torch.device,
    backbone: str,
    batch: int,
    *,
    backbone_only: bool = False,
) -> float:
    config = sizes.config(backbone)
    frames, log_mel = _inputs(config, batch, device, torch.bfloat16)
    inputs = (frames.flatten(0, 1),) if backbone_only else (frames, log_mel)
    with torch.no_grad():
        seconds = _seconds(lambda: run(*inputs), device, repeats=sizes.repeats)
    return batch * config.num_frames / seconds


def _at(sizes: Sizes, backbone: str, batch: int) -> str:
    return f"{backbone} at {sizes.image_size}, batch {batch}"


def check_training(report: Report, sizes: Sizes, device: torch.device) -> None:
    """A training step: plain, with recomputed activations, in parts, with an average of the weights."""
    for backbone in sizes.backbones:
        found = {}
        for kind in ("plain", "checkpointed", "accumulated", "averaged"):
            with report.guarded(f"training of {backbone}, {kind}"):
                found[kind] = _training_step(report, sizes, device, backbone, kind)
        if "plain" in found and "checkpointed" in found:
            (plain_s, plain_gb), (seconds, gb) = found["plain"], found["checkpointed"]
            report.add(f"{backbone}, checkpointed: time over plain", seconds / plain_s, "x", at_most=1.3)
            if gb is not None and plain_gb is not None:
                report.add(f"{backbone}, checkpointed: memory over plain", gb / plain_gb, "x", at_most=0.5)
    waits = _num_synchronisations(lambda: torch.ones((), device=device).item(), device)
    report.add("synchronisations counted for one .item()", waits, at_least=1)
    report.require_time(20)
    with report.guarded("optimizers"):
        _compare_optimizers(report, sizes, device)


def _compare_optimizers(report: Report, sizes: Sizes, device: torch.device) -> None:
    """The update alone: torch's fused AdamW, which trainings use, and DeepSpeed's where its kernel is installed."""
    model = build_model(sizes.config(sizes.backbones[0])).to(device)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torchs = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    report.add(
        "update by torch's fused AdamW", 1e3 * _seconds(torchs.step, device, repeats=sizes.repeats), "ms"
    )
    try:
        from deepspeed.git_version_info import installed_ops
    except ImportError:
        installed_ops = {}
    if not (device.type == "cuda" and installed_ops.get("fused_adam")):
        report.add("update by DeepSpeed's fused AdamW", None, "ms")
        return
    from deepspeed.ops.adam import FusedAdam

    deepspeeds = FusedAdam(model.parameters(), lr=1e-5, adam_w_mode=True)
    milliseconds = 1e3 * _seconds(deepspeeds.step, device, repeats=sizes.repeats)
    report.add("update by DeepSpeed's fused AdamW", milliseconds, "ms")


def _training_step(
    report: Report, sizes: Sizes, device: torch.device, backbone: str, kind: str
) -> tuple[float, float | None]:
    """Seconds, and gigabytes on a GPU."""
    from sdavs_platform.training.averaging import keep_average

    report.require_time(20)
    gc.collect()  # what an earlier step left in cycles would count as memory of this one
    config, batch = sizes.config(backbone), sizes.training_batch
    model = build_model(config).train().to(device)
    cast(model, torch.bfloat16)
    if kind == "checkpointed":
        model.checkpoint_activations()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    if kind == "averaged":
        keep_average(optimizer, decay=0.999)
    clips = _batch(config, batch, device, torch.bfloat16)

    def step() -> None:
        optimizer.zero_grad()
        loss_of = functools.partial(accumulated_loss, num_parts=4) if kind == "accumulated" else training_loss
        loss_of(model, clips)["loss"].backward()
        optimizer.step()

    seconds = _seconds(step, device, repeats=max(sizes.repeats // 2, 1))
    gigabytes = None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        gigabytes = torch.cuda.max_memory_allocated() / 1e9
    name = f"{backbone}, batch {batch}, {kind}"
    report.add(f"{name}: speed", batch / seconds, "clips/s")
    report.add(f"{name}: peak memory", gigabytes, "GB")
    report.add(f"{name}: synchronisations a step", _num_synchronisations(step, device), at_most=0)
    return seconds, gigabytes


def check_recipe(report: Report, sizes: Sizes, device: torch.device) -> None:
    """A short training on the bundled photographs and sounds, scored with the right, no and other sound."""
    from torch.utils.data import DataLoader

    from sdavs_model.audio_control import AudioControlled
    from sdavs_model.data.core.preprocess import Preprocessor
    from sdavs_model.data.realav.build import RealAVConfig, prepare
    from sdavs_model.data.training_clips import collate_clips, open_training_clips
    from sdavs_model.training_step import evaluate

    report.require_time(60)
    torch.manual_seed(0)
    config = SDAVSConfig(
        backbone="resnet10t", image_size=64, width=64, num_heads=4, vggish_width=0.125, from_scratch=True
    )
    preprocessor = Preprocessor(config.preprocess)
    with tempfile.TemporaryDirectory() as folder:
        num_train, num_val = sizes.clips
        data = RealAVConfig(
            size=64,
            num_train=num_train,
            num_val=num_val,
            num_test_new_scenes=1,
            num_test_strict=1,
            num_test_strict_wide=0,
        )
        prepare(Path(folder), data)
        train, val = (open_training_clips("auto", folder, split, preprocessor) for split in ("train", "val"))
        items = collate_clips([train[index] for index in range(len(train))])
        report.add("clips composed", float(len(train) + len(val)))
        model = build_model(config).train().to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        everything = {key: items[key].to(device) for key in ("frames", "log_mel", "masks")}
        rng = torch.Generator().manual_seed(0)
        losses, started = [], time.perf_counter()
        for step in range(sizes.training_steps):
            # Enough is left to score the three sounds.
            if step % 100 == 0 and report.time_left < 30:
                break
            picked = torch.randint(num_train, (40,), generator=rng).to(device)
            second = int(torch.randint(config.num_frames, (1,), generator=rng))
            batch = {key: values[picked, second : second + 1] for key, values in everything.items()}
            optimizer.zero_grad()
            loss = training_loss(model, batch)["loss"]
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.detach())
        report.add("steps of 40 one-second clips", float(len(losses)))
        if not losses:
            raise OutOfTime
        report.add("last loss", float(losses[-1]))  # waits for the device
        report.add("speed", 40 * len(losses) / (time.perf_counter() - started), "clips/s")
        scores = {}
        for control in ("right", "muted", "swapped"):
            try:
                heard = AudioControlled(val, control=control, silence=preprocessor.silence())
            except ValueError:  # so few clips that all share a category
                report.add(f"J with the {control} sound", None)
                continue
            batches = DataLoader(heard, batch_size=8, collate_fn=collate_clips)
            scores[control] = evaluate(model, batches, device=device, metrics=ObjectMetrics()).compute()[
                "miou"
            ]
            report.add(f"J with the {control} sound", scores[control])
        report.add("J gained by listening", scores["right"] - scores["muted"])


def check_deepspeed(report: Report, sizes: Sizes, device: torch.device) -> None:
    """Two steps in every ZeRO stage in a world of one, and a resume between them to the last bit."""
    import deepspeed  # noqa: F401  to say which library is missing
    import sdavs_platform.config.tree  # noqa: F401  likewise
    import torch.distributed as dist

    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_SIZE="1")
    backend = "nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        try:
            for stage in sizes.zero_stages:
                report.require_time(20)
                with report.guarded(f"ZeRO-{stage}"):
                    _check_zero(report, device, stage=stage, saved=Path(folder) / f"zero{stage}")
        finally:
            dist.destroy_process_group()


def _check_zero(report: Report, device: torch.device, *, stage: int, saved: Path) -> None:
    from sdavs_platform.config.tree import RunConfig

    config = RunConfig.model_validate(
        {
            "model": {"backbone": "pvt_v2_b0", "image_size": 32, "width": 16, "num_heads": 2}
            | {"vggish_width": 0.05, "num_frames": 2},
            "training": {"batch_size": 2},
            "cluster": {"num_workers": 1, "use_gpu": device.type == "cuda"},
            "deepspeed": {"zero_stage": stage},
        }
    )
    saved.mkdir()
    whole = _losses_of(config, num_steps=2)
    parts = _losses_of(config, num_steps=1, save=saved) + _losses_of(config, num_steps=1, load=saved)
    report.add(f"ZeRO-{stage}: loss of the second step", whole[1])
    difference = max(abs(a - b) for a, b in zip(whole, parts, strict=True))
    report.add(f"ZeRO-{stage}: difference after a resume", difference, at_most=0)


def _losses_of(
    config: Any, *, num_steps: int, save: Path | None = None, load: Path | None = None
) -> list[float]:
    """Losses of a new engine on one and the same batch."""
    from sdavs_platform.deepspeed_internals import apply_gradients, load_shards, save_shards
    from sdavs_platform.training.engine import build_engine, step_losses
    from sdavs_platform.training.pace import Pace

    torch.manual_seed(0)
    engine = build_engine(config, build_model(config.model), pace=Pace(4), world_size=1)
    if load:
        load_shards(engine, load, tag="shards")
    batch = _batch(config.model, 2, torch.device("cpu"), torch.float32)
    losses = []
    for _ in range(num_steps):
        loss = step_losses(engine, batch, config=config)["loss"]
        engine.backward(loss)
        apply_gradients(engine)
        losses.append(float(loss.detach()))
    if save:
        save_shards(engine, save, tag="shards")
    engine.destroy()
    return losses


PARTS: dict[str, Callable[[Report, Sizes, torch.device], None]] = {
    "numerics": check_numerics,
    "inference": check_inference,
    "training": check_training,
    "recipe": check_recipe,
    "deepspeed": check_deepspeed,
    "compiled": check_compiled,
}


def _forward_and_backward(config: SDAVSConfig, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Logits, loss, the gradient of the decoder and J of the same model and batch, in fp32 on the CPU."""
    torch.manual_seed(0)
    model = SDAVS(config=config).train().to(device)
    cast(model, dtype)
    for module in model.modules():
        if isinstance(module, timm.layers.DropPath | nn.Dropout):
            module.eval()  # every device has its own random numbers
    batch = _batch(config, 2, device, dtype)
    losses = training_loss(model, batch)
    losses["loss"].backward()
    gradients = [parameter.grad for parameter in model.decoder.parameters() if parameter.grad is not None]
    gradient = torch.cat([each.flatten().double() for each in gradients])
    with torch.no_grad():
        logits = model.eval()(batch["frames"], batch["log_mel"]).float().cpu()
    metrics = ObjectMetrics()
    for clip, masks in zip(logits, batch["masks"].cpu(), strict=True):
        metrics.add_clip(clip, {"masks": masks, "valid": torch.ones(len(masks), dtype=torch.bool)})
    return {
        "logits": logits,
        "loss": losses["loss"].detach().cpu(),
        "gradient": gradient.cpu(),
        "j": metrics.compute()["miou"],
    }


def _inputs(
    config: SDAVSConfig, batch: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The same random frames and log-mels on every device."""
    rng = torch.Generator().manual_seed(0)
    T, S = config.num_frames, config.image_size
    frames = torch.randn(batch, T, 3, S, S, generator=rng)
    log_mel = torch.randn(batch, T, 1, 96, 64, generator=rng)
    return frames.to(device, dtype), log_mel.to(device, dtype)


def _batch(config: SDAVSConfig, batch: int, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    frames, log_mel = _inputs(config, batch, device, dtype)
    masks = (frames[:, :, 0].float() > 0).long()
    return {"frames": frames, "log_mel": log_mel, "masks": masks}


def _matrix_rate(sizes: Sizes, device: torch.device) -> float:
    """Operations per second of a large matrix product in bf16."""
    n = sizes.matrix
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / _seconds(lambda: a @ b, device, repeats=sizes.repeats)


def _seconds(run: Callable[[], Any], device: torch.device, *, repeats: int) -> float:
    """The median over `repeats` runs, after two untimed ones, which compile and warm up."""

    def once() -> float:
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    once()
    once()
    return statistics.median(once() for _ in range(repeats))


def _num_synchronisations(run: Callable[[], Any], device: torch.device) -> float | None:
    """How often the program waits for the GPU; None where there is none."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return float(sum("called a synchronizing" in str(warning.message) for warning in caught))


if __name__ == "__main__":
    sys.exit(main())
