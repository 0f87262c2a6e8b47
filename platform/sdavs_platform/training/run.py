"""The driver of a training: check everything, lease workers, train, finish, tell."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from sdavs_model import SDAVSConfig
from sdavs_model.data.core.clip_set import total_digest
from sdavs_model.metrics.base import format_scores
from sdavs_platform.cluster import joined_cluster, require_resources
from sdavs_platform.config.paths import absolute, state_folder
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.storage.datasets import bundled_data
from sdavs_platform.storage.filesystem import require_writable
from sdavs_platform.tracking.client import tracking_uri
from sdavs_platform.tracking.runs import TrainingRun
from sdavs_platform.training.batches import open_split
from sdavs_platform.training.checkpoints.listing import best_checkpoint, checkpoint_address, has_checkpoints
from sdavs_platform.training.entry import finish_on_worker, train_on_worker
from sdavs_platform.training.faults.callbacks import GiveUp, ValidationsOnly
from sdavs_platform.training.faults.failure import root_cause
from sdavs_platform.training.faults.notices import EXIT_CODE, StopRequest
from sdavs_platform.training.faults.outage import fit_through_outages
from sdavs_platform.training.telemetry.metrics import underway

STOPPED = "stopped by the user"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training leaves behind."""

    run_id: str
    model_version: int | None
    """In the registry; None if `tracking.registered_model` is null."""
    metrics: dict[str, dict[str, float]]
    """The protocol's scores by split: J ("miou"), F ("fscore") and others, see `sdavs_model.metrics`."""
    checkpoint: str
    """Address of the best sharded checkpoint."""
    data_digest: str
    """Of all splits together."""


def train(
    config: RunConfig,
    *,
    tags: Mapping[str, str] | None = None,
    callbacks: Sequence[ray.train.UserCallback] = (),
    start_from: str | None = None,
    finishes: bool = True,
    is_stopped: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Train, or go on training, the run named `config.name`.

    SIGTERM, which `ray job stop` sends, leaves a checkpoint of the step that runs and ends in SystemExit.

    Args:
        tags: join the MLflow run's own.
        callbacks: called in Ray Train's controller after every validation that the workers report.
        start_from: checkpoint of another training to go on from, for a name that has none yet.
        is_stopped: asked after an error: whether the caller ended the training, who then ends its MLflow run, too.
        finishes: export, score and register the best checkpoint; without it the result holds validation only.

    Raises:
        ValueError: bad data, storage that refuses to be written, a resume with another config, or a cluster that is
            too small; one clear line.
        RuntimeError: training failed; names the cause. The MLflow run is FAILED in both cases.
    """
    config = resolved(config)
    uri, storage = config.tracking.uri, config.storage.uri
    assert uri is not None
    assert storage is not None
    resumes = has_checkpoints(storage, config.name)
    run = TrainingRun.open(config, uri=uri, storage=storage, has_checkpoints=resumes)
    run.set_tags(dict(tags or {}))
    print(f"{config.name}: MLflow run {run.run_id} at {uri}", flush=True)
    try:
        digest = check_data(config)
        run.set_data_digest(digest, has_checkpoints=resumes)
        require_writable(storage, config.name)
        with joined_cluster(config):
            trained = _fit(config, run, callbacks=callbacks, start_from=start_from)
            result = _finish(config, run, trained, digest=digest, finishes=finishes)
    except (KeyboardInterrupt, SystemExit):
        run.fail(STOPPED, status="KILLED")
        raise
    except ray.train.TrainingFailedError as error:
        if is_stopped():
            raise
        cause = root_cause(error)
        run.fail(cause)
        raise RuntimeError(cause) from error
    except BaseException as error:
        if is_stopped():
            raise
        run.fail(str(error) or type(error).__name__)
        raise
    run.finish()
    _summarize(config, result, uri)
    return result


def resolved(config: RunConfig) -> RunConfig:
    """The config with every address filled in, valid in any process: what the run records."""
    data = config.data.model_copy(update={"root": config.data.root or str(bundled_data())})
    weights = {
        key: absolute(path)
        for key in ("backbone_weights", "audio_weights")
        if (path := getattr(config.model, key)) is not None
    }
    return config.model_copy(
        update={
            "data": data,
            "model": SDAVSConfig.from_dict(config.model.to_dict() | weights),
            "tracking": config.tracking.model_copy(update={"uri": tracking_uri(config.tracking.uri)}),
            "storage": config.storage.model_copy(
                update={"uri": absolute(config.storage.uri or state_folder() / "results")}
            ),
        }
    )


def _finish(
    config: RunConfig, run: TrainingRun, trained: ray.train.Result, *, digest: str, finishes: bool
) -> TrainResult:
    checkpoint, reported = best_checkpoint(trained)
    assert config.storage.uri is not None
    address = checkpoint_address(config.storage.uri, config.name, checkpoint.path)
    if (done := run.finished_result()) and done["checkpoint"] == address:
        print(f"{config.name}: nothing left to train; version {done['version']} is registered", flush=True)
        return TrainResult(
            run_id=run.run_id,
            model_version=done["version"],
            metrics=done["metrics"],
            checkpoint=address,
            data_digest=digest,
        )
    val_scores = {
        key.removeprefix("val_"): value for key, value in reported.items() if key.startswith("val_")
    }
    if not finishes:
        return TrainResult(
            run_id=run.run_id,
            model_version=None,
            metrics={config.data.val_split: val_scores},
            checkpoint=address,
            data_digest=digest,
        )
    cluster = config.cluster
    finish: Any = finish_on_worker  # Ray's types know no keyword-only arguments
    task = ray.remote(num_cpus=cluster.cpus_per_worker, num_gpus=int(cluster.use_gpu), max_retries=0)(finish)
    try:
        scores, version = ray.get(
            task.remote(
                checkpoint,
                config=config,
                val_scores=val_scores,
                uri=run.uri,
                run_id=run.run_id,
                data_digest=digest,
            )
        )
    except ray.exceptions.RayTaskError as error:
        raise RuntimeError(f"after training: {error.cause}") from error
    run.set_finished_result(checkpoint=address, version=version, metrics=scores)
    return TrainResult(
        run_id=run.run_id,
        model_version=version,
        metrics=scores,
        checkpoint=address,
        data_digest=digest,
    )


def _fit(
    config: RunConfig,
    run: TrainingRun,
    *,
    callbacks: Sequence[ray.train.UserCallback],
    start_from: str | None,
) -> ray.train.Result:
    require_resources(config.cluster)
    cluster, storage = config.cluster, config.storage.uri
    assert storage is not None
    # Any: Ray's types name Tune's callbacks, which it refuses, and know nothing of elastic training.
    called: Any = [GiveUp(), *map(ValidationsOnly, callbacks)]
    scaling: Any = {
        "num_workers": cluster.num_workers,
        "elastic_resize_monitor_interval_s": cluster.resize_seconds,
    }
    stop = StopRequest(on_request=lambda: _say_stopped(config, run))
    trainer = TorchTrainer(
        train_on_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "tracking_uri": run.uri,
            "run_id": run.run_id,
            "start_from": start_from,
            "stop_key": stop.key,
        },
        scaling_config=ray.train.ScalingConfig(
            **scaling,
            use_gpu=cluster.use_gpu,
            resources_per_worker={"CPU": cluster.cpus_per_worker} | ({"GPU": 1} if cluster.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=config.name,
            storage_path=storage,
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=config.training.keep_checkpoints,
                checkpoint_score_attribute="val_miou",
            ),
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
            callbacks=called,
        ),
    )
    with stop, underway(config.name):
        try:
            trained = fit_through_outages(
                trainer.fit,
                max_failures=cluster.max_failures,
                uri=storage,
                name=config.name,
                say=_say,
            )
        except ray.train.TrainingFailedError:
            if not stop.is_made:
                raise
    if stop.is_made:
        sys.exit(EXIT_CODE)
    return trained


def check_data(config: RunConfig) -> str:
    """Open every split once, before anything is leased; returns the digest of all of them.

    Raises:
        ValueError: a folder, split or file is missing or does not fit the model; names it.
    """
    digests: dict[str, str] = {}
    for split in dict.fromkeys((config.data.train_split, config.data.val_split, *config.data.test_splits)):
        clips = open_split(config, split, training=split == config.data.train_split).source
        if config.model.num_classes != clips.num_classes:
            raise ValueError(
                f"model.num_classes: {config.model.num_classes} does not fit {clips.root} ({clips.kind}); "
                f"allowed: {clips.num_classes}"
            )
        if split == config.data.train_split and len(clips) < config.training.batch_size:
            raise ValueError(
                f"training.batch_size: {config.training.batch_size} clips, but split {split!r} has "
                f"only {len(clips)}"
            )
        digests[split] = clips.digest
    return total_digest(digests)


def _summarize(config: RunConfig, result: TrainResult, uri: str) -> None:
    print(f"\n{config.name} finished", flush=True)
    for split, scores in result.metrics.items():
        print(f"  {split:<16} {format_scores(scores)}")
    if result.model_version is not None:
        print(f"  model            models:/{config.tracking.registered_model}/{result.model_version}")
    print(f"  MLflow run       {result.run_id} at {uri}")
    print(f"  checkpoint       {result.checkpoint}", flush=True)


def _say_stopped(config: RunConfig, run: TrainingRun) -> None:
    # Before all is saved: a job that is stopped may be killed before that.
    print(f"{config.name}: stopping after this step, with a checkpoint", flush=True)
    run.fail(STOPPED, status="KILLED")


def _say(line: str) -> None:
    print(line, flush=True)
