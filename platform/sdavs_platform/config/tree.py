"""The run's config tree: every key, its unit, its default and why.

One key's way: a YAML file or a flag -> validated here -> the MLflow run, the artifact, the serving app.
Nobody reads a raw dict after this module. `sdavs_platform.config.cli` reads files and flags into the tree.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from sdavs_model.config import SDAVSConfig
from sdavs_model.data.augment.augmentation import Augment
from sdavs_model.data.datasets import KindOrAuto
from sdavs_platform.config.paths import absolute
from sdavs_platform.config.section import Section, Share
from sdavs_platform.config.serve import ServeConfig


class DataConfig(Section):
    """What to learn from."""

    root: str | None = None
    """Data set folder in its published layout, or s3://bucket/folder as `jobs/prepare_data.py upload` wrote it.
    Unset: the bundled real photographs and sounds, composed once into the state folder."""

    kind: KindOrAuto = "auto"
    """Which data set it is; decides layout, classes and protocol. "auto": told from the folder."""

    train_split: str = "train"
    """Split that is learned from."""

    val_split: str = "val"
    """Split that chooses the best checkpoint; should share no assets with train_split."""

    test_splits: tuple[str, ...] = ("test_new_scenes", "test_strict")
    """Splits reported once at the end, each on its own."""

    audio: Literal["right", "muted"] = "right"
    """"muted" trains the audio-blind copy: the same clips, with silence for sound."""

    augmented: bool = True
    """Vary the clips of the training split; off only to compare."""

    augment: Augment = Augment()
    """How training clips are varied, in both modalities."""

    num_workers: Annotated[int, Field(ge=0)] = 0
    """Loader processes per training worker; 0 decodes in the training process (best on few cores)."""

    cache_sound: bool = True
    """Decode every sound once and keep it in the state folder; where the sound is not varied, its log-mel."""

    @field_validator("root")
    @classmethod
    def _absolute_root(cls, value: str | None) -> str | None:
        return None if value is None else absolute(value)


class OptimizerConfig(Section):
    """AdamW with the paper's multi-step schedule (IV-B)."""

    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate. The paper's number is lost; our choice: AVSBench's 1e-4."""

    backbone_lr_factor: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Learning rate of the visual backbone relative to lr; below 1 protects pretrained weights."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay; never applied to biases and normalisation weights."""

    betas: tuple[Share, Share] = (0.9, 0.999)
    """AdamW's averaging of gradient and squared gradient."""

    milestones: tuple[Share, ...] = (0.6, 0.85)
    """Where lr drops, as shares of all steps, so that one schedule fits any number of epochs."""

    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor of each drop."""

    warmup_steps: Annotated[int, Field(ge=0)] = 20
    """Steps of linear warm-up from 0, which AdamW needs when training from scratch."""

    grad_clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest global gradient norm; 0 turns clipping off."""

    @field_validator("milestones")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("must ascend without repeats")
        return value


class TrainingConfig(Section):
    """How long, how much at once, what is kept."""

    epochs: Annotated[int, Field(ge=1)] = 60
    """Passes over train_split; 60 is the paper's number for MS3."""

    max_minutes: Annotated[float, Field(gt=0)] | None = None
    """Wall-clock budget in minutes, summed over restarts; the run then ends in order. Unset: no limit."""

    batch_size: Annotated[int, Field(ge=1)] = 4
    """Clips per optimizer step over all workers together; 4 is the paper's."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of weights and activations. "auto": bf16 on GPU, fp32 on CPU."""

    val_every: Annotated[int, Field(ge=1)] = 1
    """Epochs between validations; each writes a checkpoint. The last epoch always does."""

    patience: Annotated[int, Field(ge=1)] | None = None
    """Validations without a better J after which training stops. Unset: never."""

    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """Checkpoints kept by validation J, besides the newest."""

    checkpoint_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between checkpoints inside an epoch: the most that a lost worker can cost. Unset: each validation
    writes one, and nothing else does."""

    hang_seconds: Annotated[float, Field(gt=0)] | None = 600.0
    """A step may take so many seconds. Then all workers write their stacks to the storage and to MLflow, and the
    training counts as failed (cluster.max_failures). Choose more than the slowest checkpoint's upload takes. null: no
    limit."""

    log_every: Annotated[int, Field(ge=1)] = 10
    """Steps between progress lines and metric points."""

    profile: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """[first, last] optimizer step, counted from 1, of which every worker writes a torch.profiler trace into the run's
    folder `profile` in the storage and in MLflow. A few steps suffice; recording slows them."""

    consolidation_tolerance: Annotated[float, Field(gt=0)] = 1e-3
    """Largest difference of logits, relative to the largest logit, between the live engine and the
    consolidated weights in fp32; bf16 allows 50 times as much. Above it nothing is registered."""

    @field_validator("profile")
    @classmethod
    def _profile_ascends(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError("the first step comes after the last; allowed: [first, last]")
        return value


class DeepSpeedConfig(Section):
    """What DeepSpeed spreads over the workers."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    """0 nothing, 1 optimizer states, 2 and gradients, 3 and weights."""

    bucket_size: Annotated[int, Field(ge=1)] = 20_000_000
    """Numbers exchanged in one collective; DeepSpeed's default of 5e8 would need 2 GB a worker."""

    offload_optimizer: bool = False
    """Keep optimizer states, and compute updates, in main memory instead of the GPU's; for stages 1 to 3."""

    @model_validator(mode="after")
    def _has_states_to_offload(self) -> "DeepSpeedConfig":
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer: true needs deepspeed.zero_stage 1, 2 or 3")
        return self


def _number_or_range(value: Any) -> int | tuple[int, int]:
    """One message for all mistakes, where a union of types would give one for each type."""
    parts = value if isinstance(value, list | tuple) else [value]
    whole = all(isinstance(part, int) and not isinstance(part, bool) and part >= 1 for part in parts)
    if not whole or len(parts) not in (1, 2) or list(parts) != sorted(parts):
        raise ValueError(f"{value} is not allowed; allowed: a whole number from 1, or [least, most]")
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


class ClusterConfig(Section):
    """What the run leases from Ray."""

    address: str | None = None
    """Ray cluster; "local" starts a private one. Unset: the one this job runs in or that runs on this machine,
    else a private one."""

    num_workers: Annotated[int | tuple[int, int], BeforeValidator(_number_or_range)] = 2
    """Training processes that share each batch: a number, or [least, most] for a training that goes on with
    fewer when some are lost and with more when there is room again."""

    resize_seconds: Annotated[float, Field(gt=0)] = 60.0
    """With [least, most] workers: seconds between looks for room for more, which then start from the newest
    checkpoint."""

    max_failures: Annotated[int, Field(ge=0)] = 3
    """Lost workers, over the whole command, after which all start again from the newest checkpoint. Bad files and
    a loss that is not finite end the training at once: they would come again."""

    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    """CPU cores, and compute threads, of each worker."""

    use_gpu: bool = False
    """Give each worker one GPU."""

    wait_seconds: Annotated[float, Field(ge=0)] = 60.0
    """How long to wait, in seconds, for workers' places that other jobs hold; then the run fails."""

    autoscales: bool = False
    """The cluster brings nodes when they are asked for, so places that are not there yet are waited for as well;
    wait_seconds must allow for the time that a node takes."""

    @property
    def min_workers(self) -> int:
        """The fewest workers to train with."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def max_workers(self) -> int:
        """The most workers to train with."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]


class TrackingConfig(Section):
    """Where MLflow keeps runs and models."""

    uri: str | None = None
    """MLflow tracking server or database. Unset: MLFLOW_TRACKING_URI, else sqlite in the state folder.
    Several nodes need a server."""

    experiment: str = "sdavs"
    """MLflow experiment."""

    registered_model: str | None = "sdavs"
    """Name under which the finished model is registered. null: not registered."""

    @model_validator(mode="before")
    @classmethod
    def _without_alias(cls, values: Any) -> Any:
        # A key of earlier versions that nothing read; their files and recorded configs still have it.
        return (
            {key: value for key, value in values.items() if key != "alias"}
            if isinstance(values, dict)
            else values
        )


class StorageConfig(Section):
    """Where checkpoints go."""

    uri: str | None = None
    """Folder or s3:// URI, shared by all nodes. Unset: `results` in the state folder."""


class RunConfig(Section):
    """One run, complete."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)] = "sdavs"
    """Identity of the run: the same name resumes where it stopped, in the same MLflow run."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seeds weights, data order and augmentation."""

    data: DataConfig = DataConfig()
    """Data set, splits, loading."""

    model: SDAVSConfig = SDAVSConfig()
    """The network; travels inside the model artifact."""

    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer and schedule."""

    training: TrainingConfig = TrainingConfig()
    """Length, batch, validation, checkpoints."""

    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    """ZeRO."""

    cluster: ClusterConfig = ClusterConfig()
    """Workers and their resources."""

    tracking: TrackingConfig = TrackingConfig()
    """MLflow."""

    storage: StorageConfig = StorageConfig()
    """Checkpoint storage."""

    serve: ServeConfig = ServeConfig()
    """The endpoint."""

    @model_validator(mode="after")
    def _batch_divides(self) -> "RunConfig":
        batch, workers = self.training.batch_size, self.cluster.num_workers
        if batch < self.cluster.max_workers:
            raise ValueError(
                f"training.batch_size: {batch} clips are too few for {self.cluster.max_workers} workers; "
                f"allowed: whole numbers from the most workers of cluster.num_workers"
            )
        # Where the number changes, shares that differ by a clip are the price; for a fixed one they are a mistake.
        if isinstance(workers, int) and batch % workers:
            raise ValueError(
                f"training.batch_size: {batch} clips cannot be shared evenly by {workers} workers; "
                f"allowed: multiples of cluster.num_workers"
            )
        return self
