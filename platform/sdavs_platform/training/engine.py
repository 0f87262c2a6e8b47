"""The DeepSpeed engine of a run: parameter groups, AdamW, schedule, ZeRO, number format."""

import logging
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from sdavs_model.accumulation import accumulated_loss
from sdavs_model.architectures.base import SegmentationModel
from sdavs_model.compilation import compile_in_parts
from sdavs_model.encoders.features import Features, padding_of
from sdavs_model.encoders.visual import STRIDES
from sdavs_model.precision import cast
from sdavs_model.training_step import move, training_loss
from sdavs_platform.config.tree import OptimizerConfig, RunConfig
from sdavs_platform.deepspeed_internals import (
    import_deepspeed,
    loss_scale,
    reduce_at_once,
    skip_compiled_collective,
    skip_compiled_muon,
)
from sdavs_platform.training.averaging import keep_average
from sdavs_platform.training.pace import Pace
from sdavs_platform.training.schedule import lr_factor

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""By the values of `training.precision`."""


def build_engine(config: RunConfig, model: SegmentationModel, *, pace: Pace, world_size: int) -> Any:
    """Wrap the model, its optimizer and its schedule; every worker calls this at the same time."""
    if not config.cluster.use_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before DeepSpeed looks for one itself
    deepspeed = import_deepspeed()
    skip_compiled_muon()
    if not config.cluster.use_gpu:
        skip_compiled_collective()
    # torch's AdamW: DeepSpeed's own optimizers compile C++ or CUDA at first use, and count steps elsewhere, so a
    # checkpoint of one would not resume where only the other is installed. Fused it goes over all memory once, not
    # once for each operation, and keeps its count of steps on the device.
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.optimizer),
        lr=config.optimizer.lr,
        betas=config.optimizer.betas,
        fused=True,
    )
    logger.info("optimizer: torch's fused AdamW, ZeRO-%d", config.deepspeed.zero_stage)
    if config.training.ema is not None:
        keep_average(optimizer, decay=config.training.ema)
    if config.training.checkpoint_activations:
        model.checkpoint_activations()
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, progress=pace.progress(step), config=config.optimizer)
    )
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=schedule,
        config=deepspeed_config(config, world_size=world_size),
        dist_init_required=False,
    )
    reduce_at_once(engine)
    cast(engine.module, compute_dtype(config))  # DeepSpeed converts weights alone
    if config.training.compile:
        compile_in_parts(engine.module)
    return engine


def parameter_groups(model: SegmentationModel, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Backbone and the rest, each with and without weight decay (none on biases and normalisations).

    With `backbone_stage_decay` below 1 every stage of the backbone has groups of its own.
    """
    stages: dict[str, int] = {}
    if config.backbone_stage_decay < 1:
        stages = {f"visual_encoder.{name}": stage for name, stage in model.visual_encoder.stages().items()}
    backbone = {id(parameter) for parameter in model.backbone_parameters()}
    groups: dict[tuple[bool, int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_backbone = id(parameter) in backbone
            factor = config.backbone_lr_factor if is_backbone else 1.0
            if name in stages:
                factor *= config.backbone_stage_decay ** (len(STRIDES) - 1 - stages[name])
            # By the rate's origin and not by the rate: population based training changes rates, not groups.
            key = (is_backbone, stages.get(name, 0), parameter.ndim > 1)
            group = groups.setdefault(
                key,
                {
                    "params": [],
                    "lr": config.lr * factor,
                    "weight_decay": config.weight_decay if parameter.ndim > 1 else 0.0,
                },
            )
            group["params"].append(parameter)
    return list(groups.values())


def deepspeed_config(config: RunConfig, *, world_size: int) -> dict[str, Any]:
    """DeepSpeed's own config, derived from the run's; it is never edited by hand."""
    largest_share = -(-config.training.batch_size // world_size)
    offload = {"offload_optimizer": {"device": "cpu"}} if config.deepspeed.offload_optimizer else {}
    return {
        # Nominal: DeepSpeed requires equal parts, and `training_loss` weighs unequal ones.
        "train_batch_size": largest_share * world_size,
        "train_micro_batch_size_per_gpu": largest_share,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optimizer.grad_clip,
        "bf16": {"enabled": compute_dtype(config) == torch.bfloat16},
        "fp16": {"enabled": compute_dtype(config) == torch.float16},
        "zero_optimization": {
            "stage": config.deepspeed.zero_stage,
            "reduce_bucket_size": config.deepspeed.bucket_size,
            "allgather_bucket_size": config.deepspeed.bucket_size,
            # In stage 3, DeepSpeed looks so many elements ahead of each module for another use of its weights. With its
            # default of 1e9 that is all of a step, and takes tens of seconds in the first ones.
            "stage3_max_reuse_distance": config.deepspeed.bucket_size,
            **offload,
        },
        # torch's AdamW computes offloaded updates, too; DeepSpeed's own would be compiled at first use.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }


def step_losses(engine: Any, batch: dict[str, Any], *, config: RunConfig) -> dict[str, torch.Tensor]:
    """Losses of this worker's clips for `engine.backward`, on the engine's device; see `training_loss`.

    With `training.accumulate` all parts but the last have been through their backward pass. They bypass the engine,
    which would reduce the gradients of each; the last part's backward pass reduces those of all.
    """
    dtype, training = compute_dtype(config), config.training
    if padding_of(batch) is None:  # asked here, where the batch is in main memory
        batch = {name: values for name, values in batch.items() if name != "present"}
    model, batch, weights = (
        CastInputs(engine, dtype),
        move(batch, engine.device),
        training.loss_weights.model_dump(),
    )
    if training.accumulate == 1:
        return training_loss(model, batch, weights=weights)
    return accumulated_loss(
        model,
        batch,
        num_parts=training.accumulate,
        earlier=CastInputs(engine.module, dtype),
        weights=weights,
        scale=loss_scale(engine),
    )


def compute_dtype(config: RunConfig) -> torch.dtype:
    """The number format of weights and activations; "auto" goes by the GPU of this process, if it has one."""
    assert config.cluster.use_gpu != "auto"  # decided by the driver, see `with_gpus_decided`
    if config.training.precision != "auto":
        return DTYPES[config.training.precision]
    if not config.cluster.use_gpu:
        return torch.float32
    has_bf16 = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bf16 else torch.float16


def with_agreed_precision(config: RunConfig) -> RunConfig:
    """The config with one number format for all workers instead of "auto"; all workers call this together.

    Their GPUs may differ: if one has no bf16, all compute in fp16.
    """
    formats: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(formats, compute_dtype(config))
    agreed = next((name for name in ("fp16", "bf16") if DTYPES[name] in formats), "fp32")
    training = config.training.model_copy(update={"precision": agreed})
    return config.model_copy(update={"training": training})


class CastInputs(nn.Module):
    """Feeds a model, or an engine, in its own number format; its outputs become fp32.

    Args:
        model: model or engine.
        dtype: number format of its weights.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(
        self,
        frames: torch.Tensor | None = None,
        log_mel: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        *,
        features: Features | None = None,
        sound: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `SegmentationModel.forward`."""
        heard = {} if sound is None else {"sound": sound}
        if features is not None:
            features = features.map(lambda encoded: encoded.to(self.dtype))
            return self.model(features=features, **heard).float()
        assert frames is not None
        assert log_mel is not None
        return self.model(frames.to(self.dtype), log_mel.to(self.dtype), present, **heard).float()

    def listen(
        self,
        log_mel: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        *,
        embeddings: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """See `SDAVS.listen`; None if the model has none."""
        listen = getattr(self.model, "listen", None)
        if listen is None:
            return None
        if embeddings is not None:
            return listen(present=present, embeddings=embeddings.to(self.dtype))
        assert log_mel is not None
        return listen(log_mel.to(self.dtype), present)
