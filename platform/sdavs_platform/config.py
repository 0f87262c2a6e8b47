"""The run's config tree: every key, its unit, its default and why.

One key's way: a YAML file or a flag -> validated here -> the MLflow run, the artifact, the serving app.
Nobody reads a raw dict after this module. `sdavs_platform.cli` reads files and flags into the tree.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from sdavs_model.config import SDAVSConfig
from sdavs_model.data.augment import Augment
from sdavs_model.data.sets import KindOrAuto
from sdavs_platform.paths import absolute
from sdavs_platform.section import Section, Share
from sdavs_platform.serve_config import ServeConfig


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

    log_every: Annotated[int, Field(ge=1)] = 10
    """Steps between progress lines and metric points."""

    consolidation_tolerance: Annotated[float, Field(gt=0)] = 1e-3
    """Largest difference of logits, relative to the largest logit, between the live engine and the
    consolidated weights in fp32; bf16 allows 50 times as much. Above it nothing is registered."""


class DeepSpeedConfig(Section):
    """What DeepSpeed spreads over the workers."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    """0 nothing, 1 optimizer states, 2 and gradients, 3 and weights."""

    bucket_size: Annotated[int, Field(ge=1)] = 20_000_000
    """Numbers exchanged in one collective; DeepSpeed's default of 5e8 would need 2 GB a worker."""


class ClusterConfig(Section):
    """What the run leases from Ray."""

    address: str | None = None
    """Ray cluster; "local" starts a private one. Unset: the one this job runs in or that runs on this machine,
    else a private one."""

    num_workers: Annotated[int, Field(ge=1)] = 2
    """Training processes; the global batch is shared evenly among them."""

    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    """CPU cores, and compute threads, of each worker."""

    use_gpu: bool = False
    """Give each worker one GPU."""

    wait_seconds: Annotated[float, Field(ge=0)] = 60.0
    """How long to wait, in seconds, for workers' places that other jobs hold; then the run fails."""


class TrackingConfig(Section):
    """Where MLflow keeps runs and models."""

    uri: str | None = None
    """MLflow tracking server or database. Unset: MLFLOW_TRACKING_URI, else sqlite in the state folder.
    Several nodes need a server."""

    experiment: str = "sdavs"
    """MLflow experiment."""

    registered_model: str | None = "sdavs"
    """Name under which the finished model is registered. null: not registered."""

    alias: str = "champion"
    """Alias that marks the served version; set by jobs/promote.py, never by training."""


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
        if batch % workers:
            raise ValueError(
                f"training.batch_size: {batch} clips cannot be shared evenly by {workers} workers; "
                f"allowed: multiples of cluster.num_workers"
            )
        return self
