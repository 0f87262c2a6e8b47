"""The config tree of a run: every key with its unit, its default and the reason for it.

`sdavs_platform.config.cli` reads YAML files and flags into `RunConfig`, the root. Validated, it goes into the MLflow
run, the model artifact and the endpoint; nothing passes raw dicts on.

To add a key, add a field to its section: its flag is made from the name, its `--help` text from the docstring. The
section `serve` is in `config/serve.py`, `model` in `sdavs_model.config` and `sdavs_model/architectures/NAME/config.py`,
`data.augment` in `sdavs_model.data.augment.config`.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Field, create_model, field_validator, model_validator

from sdavs_model.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from sdavs_model.architectures.sdavs.config import SDAVSConfig
from sdavs_model.config import ModelConfig, with_new_keys
from sdavs_model.data.augment.config import Augment
from sdavs_model.data.core.folds import FoldBy
from sdavs_model.data.datasets import KindOrAuto
from sdavs_platform.config.paths import absolute
from sdavs_platform.config.section import Count, CountOrZero, Fraction, Name, NotNegative, Positive, Section
from sdavs_platform.config.serve import ServeConfig

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""A name of a training or sweep: it is a folder, a part of an address and a name in Ray."""


class MixedSet(Section):
    """One more data set to train on."""

    root: str
    """As `data.root`."""

    kind: KindOrAuto = "auto"
    """As `data.kind`; it must be that of data.root, with the same classes."""

    split: str = "train"
    """Split to train on."""

    weight: Positive | None = None
    """Clips drawn from this set for each clip that is drawn from data.root. Unset: by the numbers of clips."""

    @field_validator("root")
    @classmethod
    def _absolute_root(cls, value: str) -> str:
        return absolute(value)


class DataConfig(Section):
    """Data set, splits, loading."""

    root: str | None = None
    """Data set folder in its published layout, or s3://bucket/folder as `jobs/prepare_data.py upload` wrote it; or the
    folder or address of shards that `jobs/prepare_data.py shard` wrote, whose clips are fetched when they are needed.
    Unset: the bundled real photographs and sounds, composed once into the state folder."""

    kind: KindOrAuto = "auto"
    """Kind of the data set, which determines layout, classes and protocol. "auto": found from the folder."""

    train_split: Name = "train"
    """Split to train on."""

    val_split: Name = "val"
    """Split that the best checkpoint is chosen on (training.select_by); it should have no assets in common with
    train_split."""

    test_splits: tuple[Name, ...] = ("test_new_scenes", "test_strict")
    """Splits that are scored once, after training, each separately."""

    num_folds: Annotated[int, Field(ge=2)] | None = None
    """Number of parts of train_split for cross-validation; with data.fold. Clips that share a photograph or a recording
    stay in one part. `jobs/tune.py --study folds/5` trains all five."""

    fold: CountOrZero | None = None
    """The part of num_folds, from 0, that is held out: it replaces val_split for validation and is scored at the end;
    the others are trained on."""

    fold_by: FoldBy = "assets"
    """What is held out together. "assets": clips that share a photograph or a recording; "clips": each clip by itself,
    for sets in which all clips share assets."""

    mix: tuple[MixedSet, ...] = ()
    """More data sets to train on, each {root, kind, split, weight}, shuffled together with data.root; an epoch has as
    many clips as all of them together. Validation and tests use data.root only. Not with cache_features."""

    class_balance: Fraction = 0.0
    """How far rare categories of clips are drawn more often: 0 draws each clip once per epoch, 1 draws all categories
    equally often. Needs a data set that records the categories of its clips; not with cache_features."""

    audio: Literal["right", "muted"] = "right"
    """"muted" trains an audio-blind model: on the same clips, with silence as sound."""

    augmented: bool = True
    """Augment the clips of the training split; false only for comparisons."""

    augment: Augment = Augment()
    """How training clips are augmented, in both modalities."""

    whole_clips: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the epochs, at the end, that train on whole clips instead of `augment.window`, in batches of as many
    frames; an epoch keeps its number of steps. Short windows train faster, but parts that compare distant seconds are
    trained only by whole clips."""

    num_workers: CountOrZero = 0
    """Loader processes per training worker; 0 loads in the training process (best on few cores)."""

    cache_gb: Positive | None = None
    """For a data set in shards: GB of clips that a machine keeps in the state folder; the least recently used ones are
    removed first. Unset: all fetched clips are kept."""

    cache_sound: bool = True
    """Decode every sound once and keep it in the state folder, or its log-mel if the sound is not augmented."""

    cache_features: bool = False
    """Keep the encoders' outputs for every clip in the state folder, 0.5 MB per clip at 128 px, and train on them, so
    that no step runs the encoders. Needs both encoders frozen. Of data.augment only `window` applies; the features can
    be augmented instead (model.feature_noise, model.feature_dropout)."""

    paired_sounds: bool = False
    """Train on every picture under two sounds in the same batch, its own and another clip's, each with its own masks:
    a model that does not listen is wrong under one of them. An epoch has as many steps but shows half of the clips,
    different ones each time. Needs cache_features, and a data set that records all visible objects, as RealAV does."""

    @field_validator("root")
    @classmethod
    def _absolute_root(cls, value: str | None) -> str | None:
        return None if value is None else absolute(value)

    @model_validator(mode="after")
    def _fold_is_one_of_several(self) -> "DataConfig":
        if (self.fold is None) != (self.num_folds is None):
            given, missing = ("fold", "num_folds") if self.num_folds is None else ("num_folds", "fold")
            raise ValueError(f"{given}: {getattr(self, given)} needs data.{missing}, too")
        if self.fold is not None and self.num_folds is not None and self.fold >= self.num_folds:
            raise ValueError(
                f"fold: {self.fold} is not allowed; allowed with data.num_folds={self.num_folds}: 0 to "
                f"{self.num_folds - 1}"
            )
        return self


class OptimizerConfig(Section):
    """AdamW and its learning rate; by default the paper's multi-step schedule (IV-A)."""

    lr: Positive = 1e-4
    """Peak learning rate. Illegible in the paper; our choice: AVSBench's 1e-4."""

    backbone_lr_factor: Fraction = 1.0
    """Learning rate of the visual backbone relative to lr; below 1 protects pretrained weights."""

    backbone_stage_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate from each of the backbone's four stages to the one before it, in addition to
    backbone_lr_factor; below 1 the early stages change least."""

    weight_decay: NotNegative = 0.01
    """Decoupled weight decay; never applied to biases and normalisation weights."""

    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """AdamW's decay rates for the averages of the gradient and of its square."""

    schedule: Literal["multi_step", "cosine", "poly", "constant"] = "multi_step"
    """How lr changes after the warm-up. "multi_step": drops by gamma at each milestone, as in the paper; "cosine": half
    a cosine (Loshchilov and Hutter 2017); "poly": (1 - progress) to the power of poly_power; "constant": not at all."""

    final_lr_factor: Fraction = 0.0
    """Final value of lr, relative to its peak; 0 for "constant", which stays at lr."""

    poly_power: Positive = 0.9
    """Power of the schedule "poly"; 0.9 is DeepLab's."""

    milestones: tuple[Fraction, ...] = (0.6, 0.85)
    """With "multi_step": when lr drops, as fractions of all steps, so that one schedule fits any number of epochs."""

    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor by which lr drops at each milestone of "multi_step"."""

    warmup_steps: CountOrZero = 20
    """Steps of linear warm-up from 0; AdamW needs it when training from scratch."""

    grad_clip: NotNegative = 1.0
    """Maximum global gradient norm; 0 turns clipping off."""

    @field_validator("milestones")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("must be strictly ascending")
        return value

    @model_validator(mode="after")
    def _has_an_end(self) -> "OptimizerConfig":
        if self.schedule == "constant" and self.final_lr_factor:
            raise ValueError(
                f"final_lr_factor: {self.final_lr_factor} has no effect with optimizer.schedule='constant'; allowed: 0"
            )
        return self


class LossWeights(Section):
    """Weights of the parts of the loss. Missing from the paper's available text; our choice: all 1."""

    ce: NotNegative = 1.0
    """Weight of the cross entropy."""

    iou: NotNegative = 1.0
    """Weight of the soft IoU loss."""

    dice: NotNegative = 1.0
    """Weight of the soft Dice loss."""

    @model_validator(mode="after")
    def _something_is_left(self) -> "LossWeights":
        if not self.ce + self.iou + self.dice:
            raise ValueError("ce, iou and dice are all 0; allowed: at least one above 0")
        return self


class _Start(Section):
    """Weights of another training to start from."""

    @property
    def source(self) -> str | None:
        """The key `from`, which Python reserves."""
        return getattr(self, "from")


_FROM = """Weights to start from: a registered model (models:/sdavs@champion, models:/sdavs/3), the id of an MLflow run
(its registered model, else its best checkpoint), or the folder or s3:// address of a checkpoint or of a model artifact.
All weights must fit; only the head may have other classes, and then starts from scratch. Optimizer, schedule and epochs
begin at 0. Unset: the encoders' pretrained weights, if any. Not used where the name has checkpoints."""

if TYPE_CHECKING:
    StartConfig = _Start
else:  # no attribute can be called `from` in a class body
    StartConfig = create_model(
        "StartConfig",
        __base__=_Start,
        __doc__=_Start.__doc__,
        **{"from": (str | None, Field(default=None, description=_FROM))},
    )


class TrainingConfig(Section):
    """Length, batch size, validation, checkpoints."""

    epochs: Count = 60
    """Passes over train_split; 60 is the paper's value for MS3."""

    max_minutes: Positive | None = None
    """Time limit in minutes, summed over restarts; the run then ends as if it had reached its last epoch. The learning
    rate follows the larger of the fraction of steps and the fraction of this time, so that it has decayed by then.
    Unset: no limit, and the result does not depend on the speed of the machine."""

    batch_size: Count = 4
    """Clips per optimizer step, over all workers; 4 is the paper's value."""

    freeze: tuple[str, ...] = ()
    """Parts of the model that are never trained, by the names of its modules, such as levels.0 or decoder; encoders
    also have model.freeze_backbone and model.freeze_audio_encoder."""

    loss_weights: LossWeights = LossWeights()
    """Weights of the parts of the loss."""

    accumulate: Count = 1
    """Number of parts into which a worker divides its clips of a step; it then needs the memory of one part. Loss,
    gradients and learning rate are those of the undivided batch_size. Not for deepspeed.zero_stage 3."""

    checkpoint_activations: bool = False
    """Recompute activations in the backward pass instead of keeping them: less memory, about a third more time."""

    compile: bool = False
    """Compile the model part by part with torch.compile at the first step, for any batch size and clip length. Takes
    minutes once per worker, and needs a C++ compiler on CPUs. Not for deepspeed.zero_stage 3."""

    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of an average of the weights, such as 0.999; the average is then scored, exported and registered
    in place of the weights. Not for deepspeed.zero_stage 3, nor for stage 0 in bf16 or fp16. Unset: no average."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of weights and activations. "auto": bf16 on GPUs that have it, fp16 if one of the workers' GPUs has
    none (older than Ampere), fp32 on CPU. fp16 needs GPUs and scales the loss; steps that find the right scale count as
    skipped."""

    val_every: Count = 1
    """Epochs between validations; each writes a checkpoint. The last epoch always does."""

    patience: Count | None = None
    """Training stops after this many validations without a better score (select_by). Unset: never."""

    select_by: Literal["J", "listening"] = "J"
    """Criterion for the best checkpoint, on the validation split. "J"; or "listening": J plus the difference of J
    between the right and swapped sound, which a model that marks whatever it sees cannot raise. The latter validates
    twice, and needs clips with different sounds in data.val_split."""

    keep_checkpoints: Count = 2
    """Number of checkpoints to keep, those with the highest score (select_by); the newest two are always kept."""

    checkpoint_every: Count | None = None
    """Steps between checkpoints within an epoch: the most that has to be repeated after the loss of a worker. Unset:
    checkpoints are written by validations only."""

    hang_seconds: Positive | None = 600.0
    """Longest time for one step, in seconds. When it is exceeded, all workers write their stacks to the storage and to
    MLflow, and the attempt counts as failed (cluster.max_failures). Must be longer than the slowest upload of a
    checkpoint. With `compile` six times as long, because a step may include a compilation. null: no limit."""

    max_skipped: Annotated[int, Field(ge=0)] = 10
    """Most consecutive steps with non-finite gradients. Such a step leaves the weights unchanged; one more ends the
    training."""

    spike_factor: Annotated[float, Field(gt=1)] | None = None
    """A step whose loss exceeds this factor times the average of about 50 steps before it leaves the weights unchanged
    and counts towards max_skipped. Unset: no step is skipped for its loss."""

    log_every: Count = 10
    """Steps between log lines, and between points of the metrics."""

    profile: tuple[Count, Count] | None = None
    """[first, last] optimizer step, from 1, to profile: every worker writes a torch.profiler trace to the folder
    `profile` of the run, in the storage and in MLflow. A few steps suffice; profiling slows them. The metrics of such
    a training also have the time spent in collectives (`time/communication`)."""

    consolidation_tolerance: Positive = 1e-3
    """Largest allowed difference of logits, relative to the largest logit, between the engine and the consolidated
    weights in fp32; bf16 allows 50 times as much. Above it no model is registered."""

    @property
    def hang_limit(self) -> float | None:
        """Longest time for one step, in seconds, compilation included. Our choice for it: six times as long."""
        return self.hang_seconds and self.hang_seconds * (6 if self.compile else 1)

    @property
    def criterion(self) -> str:
        """The name of the score that `select_by` stands for, among those of a validation."""
        return {"J": "miou", "listening": "listening"}[self.select_by]

    @field_validator("profile")
    @classmethod
    def _profile_ascends(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError("the first step comes after the last; allowed: [first, last]")
        return value


class DeepSpeedConfig(Section):
    """What DeepSpeed partitions over the workers."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    """0 partitions nothing, 1 optimizer states, 2 also gradients, 3 also weights."""

    bucket_size: Count = 20_000_000
    """Elements per collective; DeepSpeed's default of 5e8 would need 2 GB per worker."""

    offload_optimizer: bool = False
    """Keep optimizer states, and compute updates, in CPU memory instead of GPU memory; for stages 1 to 3."""

    @model_validator(mode="after")
    def _has_states_to_offload(self) -> "DeepSpeedConfig":
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer: true needs deepspeed.zero_stage 1, 2 or 3")
        return self


def _number_or_range(value: Any) -> int | tuple[int, int]:
    """Validate with one message, where a union of types would give one for each type."""
    parts = value if isinstance(value, list | tuple) else [value]
    whole = all(isinstance(part, int) and not isinstance(part, bool) and part >= 1 for part in parts)
    if not whole or len(parts) not in (1, 2) or list(parts) != sorted(parts):
        raise ValueError(f"{value} is not allowed; allowed: a whole number from 1, or [least, most]")
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def _bool_or_auto(value: Any) -> Any:
    """As `_number_or_range`, for true, false and "auto"."""
    known = {"true": True, "false": False, "auto": "auto"}
    if str(value).lower() not in known:
        raise ValueError(f"{value!r} is not allowed; allowed: true, false, auto")
    return known[str(value).lower()]


def _as_texts(value: Any) -> Any:
    """YAML reads `NCCL_IB_DISABLE: 1` as a number; variables are text."""
    if not isinstance(value, dict):
        return value
    return {key: str(each) if isinstance(each, int | float) else each for key, each in value.items()}


class ClusterConfig(Section):
    """Workers and their resources."""

    address: str | None = None
    """Address of a Ray cluster, HOST:PORT; "local" starts a private one. Unset: the cluster that this job runs in or
    that runs on this machine, else a private one."""

    num_workers: Annotated[int | tuple[int, int], BeforeValidator(_number_or_range)] = 2
    """Number of training processes, or [least, most] for an elastic training, which continues with fewer workers when
    some are lost and with more when resources are free again."""

    resize_seconds: Positive = 60.0
    """With [least, most] workers: seconds between checks for free resources; training with more workers starts from the
    newest checkpoint."""

    max_failures: CountOrZero = 3
    """How often the workers are restarted from the newest checkpoint after the loss of one. Bad files and a loss that
    is not finite end the training at once, because they would recur."""

    cpus_per_worker: Count = 1
    """CPU cores, and compute threads, per worker."""

    use_gpu: Annotated[bool | Literal["auto"], BeforeValidator(_bool_or_auto)] = False
    """Use one GPU per worker. "auto": if the cluster has a GPU for each of the fewest workers when the training starts;
    a cluster that adds GPU nodes on demand needs true."""

    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """How Ray places the workers. "PACK": on as few nodes as it can, where GPUs have the fastest links; "STRICT_PACK":
    on one node, or not at all; "SPREAD" and "STRICT_SPREAD": on different nodes."""

    accelerator_type: str | None = None
    """Only GPUs of this type, by Ray's name, such as A100 or H100. Needs use_gpu. Unset: any."""

    env: Annotated[dict[str, str], BeforeValidator(_as_texts)] = Field(default={})
    """Environment variables of all workers, such as {NCCL_SOCKET_IFNAME: eth0}; added to the driver's own NCCL_*,
    TORCH_NCCL_*, GLOO_*, FI_* and UCX_*. Recorded in MLflow: no secrets."""

    wait_seconds: NotNegative = 60.0
    """How long to wait, in seconds, for resources that other jobs use; then the run fails."""

    autoscales: bool = False
    """The cluster adds nodes on demand, so resources that it does not have yet are waited for, too; wait_seconds must
    then be longer than the start of a node."""

    @model_validator(mode="after")
    def _has_accelerators(self) -> "ClusterConfig":
        if self.accelerator_type is not None and self.use_gpu is False:
            raise ValueError("accelerator_type: needs cluster.use_gpu=true; allowed on CPUs: null")
        return self

    @property
    def min_workers(self) -> int:
        """The fewest workers to train with."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def max_workers(self) -> int:
        """The most workers to train with."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]


class TrackingConfig(Section):
    """MLflow: where runs and models are kept."""

    uri: str | None = None
    """Address of an MLflow server or database. Unset: MLFLOW_TRACKING_URI, else sqlite in the state folder. Training on
    several nodes needs a server."""

    experiment: Name = "sdavs"
    """Name of the MLflow experiment."""

    registered_model: Name | None = "sdavs"
    """Name under which the trained model is registered, without / : . % or quotes. null: it is not registered."""

    tensorboard: bool = False
    """Also write TensorBoard files, to the folder `tensorboard` of the run in the storage."""

    system_metrics_seconds: Positive | None = None
    """Seconds between samples of each node's CPUs, memory, disk, network and GPUs in MLflow. Unset: none."""

    @field_validator("registered_model")
    @classmethod
    def _is_model_name(cls, value: str | None) -> str | None:
        # MLflow's rule for the models of a run, which each version is made from; its registry allows some of these.
        if value is not None and (not value.strip() or any(letter in value for letter in "/:.%\"'")):
            raise ValueError(
                f"{value!r} is not a valid model name; it must not be empty or contain / : . % \" or '"
            )
        return value

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
    """Where checkpoints are kept."""

    uri: str | None = None
    """Folder or s3:// URI that all nodes can reach. Unset: `results` in the state folder."""


if TYPE_CHECKING:
    ModelSection = ModelConfig
else:
    # `model.architecture` decides which class it is.
    ModelSection = Annotated[
        Union[tuple(each.config for each in ARCHITECTURES.values())],  # noqa: UP007 - made from a tuple
        Field(discriminator="architecture"),
    ]


class RunConfig(Section):
    """The whole config of a run."""

    name: Annotated[str, Field(pattern=NAME, max_length=80)] = "sdavs"
    """Name of the run. The same name resumes where it stopped, in the same MLflow run."""

    seed: CountOrZero = 0
    """Seed of weights, data order and augmentation."""

    data: DataConfig = DataConfig()
    """Data set, splits, loading."""

    model: ModelSection = SDAVSConfig()
    """The network; stored in the model artifact."""

    start: StartConfig = StartConfig()
    """Weights of another training to start from: fine-tuning."""

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

    @field_validator("model", mode="before")
    @classmethod
    def _keys_of_earlier_versions(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {"architecture": DEFAULT_ARCHITECTURE} | with_new_keys(value)

    @model_validator(mode="after")
    def _format_is_there(self) -> "RunConfig":
        if self.training.precision == "fp16" and self.cluster.use_gpu is False:
            raise ValueError(
                "training.precision: 'fp16' needs cluster.use_gpu=true; allowed on CPUs: auto, fp32, bf16"
            )
        return self

    @model_validator(mode="after")
    def _cached_encoders_are_frozen(self) -> "RunConfig":
        if self.data.cache_features and not self.model.caches_features:
            raise ValueError(
                f"data.cache_features: the encoders of model.architecture={self.model.architecture} as configured give "
                "nothing that could be cached; set data.cache_features=false"
            )
        if self.data.cache_features and not (
            self.model.freeze_backbone and self.model.audio_encoder_is_frozen
        ):
            raise ValueError(
                "data.cache_features: the features of trained encoders change at every step; set "
                "model.freeze_backbone=true and model.freeze_audio_encoder=true, or data.cache_features=false"
            )
        return self

    @model_validator(mode="after")
    def _whole_clips_fill_batches(self) -> "RunConfig":
        window, parts = self.data.augment.window, self.cluster.max_workers * self.training.accumulate
        if self.data.whole_clips and not window:
            raise ValueError("data.whole_clips: has no effect without data.augment.window; allowed: 0")
        if self.data.whole_clips and self.training.batch_size * window // self.model.num_frames < parts:
            raise ValueError(
                f"training.batch_size: {self.training.batch_size} windows of {window} s are too few whole clips for "
                f"{parts} parts; allowed with data.whole_clips: whole numbers from "
                f"{-(-parts * self.model.num_frames // window)}"
            )
        return self

    @model_validator(mode="after")
    def _pairs_can_be_made(self) -> "RunConfig":
        if not self.data.paired_sounds:
            return self
        if not self.data.cache_features:
            raise ValueError("data.paired_sounds: true needs data.cache_features=true")
        if self.data.audio != "right":
            raise ValueError(
                f"data.paired_sounds: true with data.audio={self.data.audio!r} would give the same silence two masks; "
                "allowed: false"
            )
        if self.training.batch_size % 2:
            raise ValueError(
                f"training.batch_size: {self.training.batch_size} cannot be divided into pairs; allowed with "
                "data.paired_sounds: even numbers"
            )
        return self

    @model_validator(mode="after")
    def _listens_to_be_selected(self) -> "RunConfig":
        if self.training.select_by == "listening" and self.data.audio == "muted":
            raise ValueError(
                "training.select_by: listening needs sound, but data.audio is muted; allowed: J for audio-blind models"
            )
        return self

    @model_validator(mode="after")
    def _zero_stage_fits(self) -> "RunConfig":
        stage, training = self.deepspeed.zero_stage, self.training
        if training.accumulate > 1 and stage == 3:
            raise ValueError(
                f"training.accumulate: {training.accumulate} needs whole weights on every worker; allowed: 1, or "
                "deepspeed.zero_stage 0, 1 or 2"
            )
        if training.compile and stage == 3:
            raise ValueError(
                "training.compile: ZeRO-3 gathers weights inside the forward pass, which cannot be compiled; allowed: "
                "false, or deepspeed.zero_stage 0, 1 or 2"
            )
        if training.ema is not None and stage == 3:
            raise ValueError(
                "training.ema: needs whole weights on every worker; allowed: deepspeed.zero_stage 0, 1 or 2, or "
                "training.ema null"
            )
        is_short = training.precision in ("bf16", "fp16") or (
            training.precision == "auto" and self.cluster.use_gpu is True
        )
        if training.ema is not None and stage == 0 and is_short:
            raise ValueError(
                "training.ema: deepspeed.zero_stage 0 keeps no fp32 weights to average in bf16 or fp16; allowed: "
                "deepspeed.zero_stage 1 or 2, training.precision fp32, or training.ema null"
            )
        return self

    @model_validator(mode="after")
    def _mixes_what_it_can(self) -> "RunConfig":
        for key in ("mix", "class_balance"):
            if getattr(self.data, key) and self.data.cache_features:
                raise ValueError(
                    f"data.{key}: has no effect on cached features; set data.cache_features=false"
                )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> "RunConfig":
        batch, workers = self.training.batch_size, self.cluster.num_workers
        if batch < self.cluster.max_workers:
            raise ValueError(
                f"training.batch_size: {batch} clips are too few for {self.cluster.max_workers} workers; "
                f"allowed: whole numbers from the most workers of cluster.num_workers"
            )
        least = batch // self.cluster.max_workers
        if self.training.accumulate > least:
            raise ValueError(
                f"training.accumulate: {self.training.accumulate} parts, but a worker may have only {least} "
                f"clips of a step; allowed: 1 to {least}"
            )
        # With an elastic number the workers' parts of a batch may differ by a clip; with a fixed one that is a mistake.
        if isinstance(workers, int) and batch % workers:
            raise ValueError(
                f"training.batch_size: {batch} clips cannot be divided evenly among {workers} workers; "
                f"allowed: multiples of cluster.num_workers"
            )
        return self
