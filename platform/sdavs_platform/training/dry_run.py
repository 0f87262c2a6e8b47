"""`jobs/train.py --dry-run`: data, steps, resources and expected memory of a training, without starting it."""

import math
from dataclasses import dataclass

import torch

from sdavs_model import build_model
from sdavs_model.config import ModelConfig
from sdavs_platform.config.tree import ClusterConfig, RunConfig
from sdavs_platform.tracking.runs import resolved_yaml
from sdavs_platform.training.batches import open_split
from sdavs_platform.training.checkpoints.listing import has_checkpoints
from sdavs_platform.training.engine import compute_dtype
from sdavs_platform.training.mixing import open_training_sets
from sdavs_platform.training.preflight import check_data, resolved


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that a training worker needs in addition to Python, its libraries and the loader."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    """What the forward pass saves for the backward pass."""

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations


def describe(config: RunConfig) -> str:
    """YAML with the whole resolved config, which `--config` accepts; everything else is in comments above it.

    No worker is started and nothing is logged. The bundled data set is composed if it is used and missing.

    Raises:
        ValueError: the data are missing or do not fit the model.
    """
    config = _with_gpus_guessed(resolved(config))
    digest = check_data(config)
    splits = dict.fromkeys((config.data.train_split, config.data.val_split, *config.data.test_splits))
    clips = {
        split: open_split(config, split, training=split == config.data.train_split).source for split in splits
    }
    train = clips[config.data.train_split]
    mixed = open_training_sets(config)[1:]
    epoch = (len(train) + sum(map(len, mixed))) // config.training.batch_size
    assert config.storage.uri is not None
    resumes = has_checkpoints(config.storage.uri, config.name)
    num_parameters, num_trained = count_parameters(config.model)
    memory = expected_memory(config)
    lines = {
        "run": f"{config.name}, {'resumed from its newest checkpoint' if resumes else 'new'}",
        "data": f"{train.kind} in {train.root}, digest {digest[:12]}: "
        + ", ".join(f"{split} {len(each)} clips" for split, each in clips.items())
        + "".join(f"; mixed with {each.source.root}, {len(each)} clips" for each in mixed),
        "steps": f"{config.training.epochs} epochs of {epoch} steps, {config.training.batch_size} clips a step",
        "resources": _resources(config.cluster),
        "model": f"{config.model.architecture} on {config.model.backbone} at {config.model.image_size} px, "
        f"{num_parameters / 1e6:.1f} M parameters, {num_trained / 1e6:.1f} M of them trained in "
        f"{str(compute_dtype(config)).removeprefix('torch.')}",
        "memory": f"{_size(memory.total)} a worker: weights {_size(memory.weights)}, "
        f"gradients {_size(memory.gradients)}, optimizer {_size(memory.optimizer)}, "
        f"activations {_size(memory.activations)}; without Python and the loader",
    }
    comments = [f"# {name:<10} {text}" for name, text in lines.items()]
    return "\n".join(["# Dry run: nothing was started.", *comments, resolved_yaml(config)])


def count_parameters(config: ModelConfig) -> tuple[int, int]:
    """All parameters, and those that are trained."""
    with torch.device("meta"):
        parameters = list(build_model(config.without_weights()).parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def expected_memory(config: RunConfig) -> Memory:
    """Memory of a worker when as few workers train as the config allows.

    States as ZeRO partitions them (Rajbhandari et al. 2020, section 3): in bytes per parameter, weights and gradients
    take 2 (bf16) or 4 (fp32), AdamW's moments 8, and DeepSpeed's own fp32 weights 4, which only stage 0 in fp32 does
    without; the average of `training.ema` takes 4. Activations are counted exactly, on the meta device.
    """
    dtype, stage, num_workers = compute_dtype(config), config.deepspeed.zero_stage, config.cluster.min_workers
    num_parameters, num_trained = count_parameters(config.model)
    moments_and_copy = 8 if stage == 0 and dtype == torch.float32 else 12
    if config.training.ema is not None:
        moments_and_copy += 4
    return Memory(
        weights=num_parameters * dtype.itemsize / (num_workers if stage >= 3 else 1),
        gradients=num_trained * dtype.itemsize / (num_workers if stage >= 2 else 1),
        optimizer=num_trained * moments_and_copy / (num_workers if stage >= 1 else 1),
        activations=saved_bytes(
            config.model,
            num_clips=math.ceil(config.training.batch_size / (num_workers * config.training.accumulate)),
            num_frames=config.data.augment.window or config.model.num_frames,
            dtype=dtype,
            recomputes=config.training.checkpoint_activations,
        ),
    )


def saved_bytes(
    config: ModelConfig, *, num_clips: int, num_frames: int, dtype: torch.dtype, recomputes: bool = False
) -> int:
    """Bytes of the tensors, other than the model's own, that a forward pass saves for the backward pass.

    Args:
        recomputes: with `training.checkpoint_activations`; what the backward pass then computes again, a block at a
            time, does not count.
    """
    sizes: dict[int, int] = {}
    kept = []  # a freed storage's address may be used again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept.append(storage)
        sizes.setdefault(storage._cdata, storage.nbytes())
        return tensor

    with torch.device("meta"):
        model = build_model(config.without_weights()).train().to(dtype)
        if recomputes:
            model.checkpoint_activations()
        own = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
        sizes |= {storage._cdata: 0 for storage in own}
        side = config.image_size
        frames = torch.empty(num_clips, num_frames, 3, side, side, dtype=dtype)
        log_mel = torch.empty(num_clips, num_frames, *config.preprocess.log_mel_shape, dtype=dtype)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(frames, log_mel)
    return sum(sizes.values())


def _with_gpus_guessed(config: RunConfig) -> RunConfig:
    """No cluster is joined, so `cluster.use_gpu: auto` is decided by the GPUs of this machine."""
    if config.cluster.use_gpu != "auto":
        return config
    use_gpu = torch.cuda.device_count() >= config.cluster.min_workers
    return config.model_copy(update={"cluster": config.cluster.model_copy(update={"use_gpu": use_gpu})})


def _resources(config: ClusterConfig) -> str:
    least, most = config.min_workers, config.max_workers
    number = str(most) if least == most else f"{least} to {most}"
    each = f"{config.cpus_per_worker} CPU{'s' if config.cpus_per_worker > 1 else ''}"
    each += " and 1 GPU" if config.use_gpu else ""
    where = {
        None: "the cluster of this job or machine, else a private one",
        "local": "a private one",
    }.get(config.address, config.address)
    return f"{number} workers of {each}; Ray cluster: {where}"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
