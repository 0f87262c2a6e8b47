"""The driver of a training: check everything, start the workers, train, finish, report."""

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from sdavs_model.metrics.base import format_scores
from sdavs_model.weights.store import describe_weights
from sdavs_platform import console
from sdavs_platform.cluster import joined_cluster, require_resources, with_gpus_decided
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.tracking.runs import TrainingRun, record_refusal
from sdavs_platform.training.checkpoints.listing import (
    KeepNewest,
    ValidationsOnly,
    best_checkpoint,
    checkpoint_address,
    has_checkpoints,
)
from sdavs_platform.training.faults.lease import Lease
from sdavs_platform.training.faults.notices import EXIT_CODE, StopRequest
from sdavs_platform.training.faults.retries import EndWithoutRetry, fit_through_outages, root_cause
from sdavs_platform.training.fine_tuning import check_frozen_parts, prepare_start
from sdavs_platform.training.preflight import CheckpointRecord, check_data, require_registry, resolved
from sdavs_platform.training.shared_files import share_files
from sdavs_platform.training.telemetry.metrics import underway

logger = logging.getLogger(__name__)

STOPPED = "stopped by the user"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The result of a training."""

    run_id: str
    model_version: int | None
    """Registered version; None if `tracking.registered_model` is null."""
    metrics: dict[str, dict[str, float]]
    """The protocol's scores by split: J ("miou"), F ("fscore") and others, see `sdavs_model.metrics`."""
    checkpoint: str
    """Address of the best sharded checkpoint."""
    data_digest: str
    """Digest of all splits together."""


def train(
    config: RunConfig,
    *,
    take_over: bool = False,
    tags: Mapping[str, str] | None = None,
    callbacks: Sequence[ray.train.UserCallback] = (),
    start_from: str | None = None,
    finishes: bool = True,
    is_stopped: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Train, or resume, the run named `config.name`.

    SIGTERM, which `ray job stop` sends, leaves a checkpoint of the current step and ends in SystemExit.

    Args:
        take_over: end another command that trains under this name. Without it the name is refused while that
            command runs.
        tags: added to the MLflow run's own.
        callbacks: called in Ray Train's controller after every validation that the workers report.
        start_from: checkpoint of another training to continue from, for a name that has none yet.
        finishes: export, score and register the best checkpoint; without it the result holds validation only.
        is_stopped: asked after an error: whether the caller ended the training, who then ends its MLflow run, too.

    Raises:
        ValueError: the name is being trained, bad data, storage that refuses to be written, a resume with another
            config, or a cluster that is too small; one clear line.
        RuntimeError: training failed; names the cause. The MLflow run is FAILED in both cases.
    """
    with contextlib.ExitStack() as held:
        if config.cluster.use_gpu == "auto":
            held.enter_context(joined_cluster(config))
            config = with_gpus_decided(config)
        config = resolved(config)
        uri, storage = config.tracking.uri, config.storage.uri
        assert uri is not None
        assert storage is not None
        assert config.data.root is not None
        lease = held.enter_context(_leased(config, storage, take_over=take_over))
        resumes = has_checkpoints(storage, config.name)
        record = CheckpointRecord(config, storage=storage, has_checkpoints=resumes)
        _refused_in_mlflow(config, record.require_same_config)
        run = TrainingRun.open(config, uri=uri, storage=storage, has_checkpoints=resumes)
        weights = {key: json.dumps(known) for key, known in describe_weights(config.model).items()}
        run.set_tags(dict(tags or {}) | weights)
        logger.info("%s: MLflow run %s at %s", config.name, run.run_id, uri)
        with _failure_recorded(run, lambda: is_stopped() or lease.is_lost):
            digest = check_data(config)
            run.set_data_digest(digest, has_checkpoints=resumes)
            run.log_dataset(config.data.root, digest=digest)
            check_frozen_parts(config)
            lineage = prepare_start(config, has_checkpoints=resumes)
            run.set_tags(lineage)
            record.write(digest)
            if finishes:
                require_registry(config)
            with joined_cluster(config):
                run.record_process(ray.util.get_node_ip_address())
                require_resources(config.cluster)
                trained = _fit(
                    config,
                    run,
                    lease,
                    shared=share_files(config),
                    callbacks=callbacks,
                    start_from=start_from,
                )
                result = _finish(
                    config,
                    run,
                    trained,
                    digest=digest,
                    weights=describe_weights(config.model),
                    lineage=lineage,
                    finishes=finishes,
                )
        run.finish()
    _log_summary(config, result, uri)
    return result


def train_on_worker(settings: dict[str, Any]) -> None:
    """See `loop.train_worker`; Ray sends this function, so the driver loads neither DeepSpeed nor the loop."""
    from sdavs_platform.training.loop import train_worker

    train_worker(settings)


def finish_on_worker(checkpoint: Any, **context: Any) -> tuple[dict[str, dict[str, float]], int | None]:
    """See `finish.finish_training`: scores by split, and the registered version."""
    from sdavs_platform.training.finish import finish_training

    console.configure()
    return finish_training(checkpoint, **context)


@contextlib.contextmanager
def _leased(config: RunConfig, storage: str, *, take_over: bool) -> Iterator[Lease]:
    """Context manager that holds the lease: no other command trains under the name."""
    lease = Lease(storage, config.name, takes_over=take_over)
    _refused_in_mlflow(config, lease.acquire)
    try:
        yield lease
    finally:
        lease.release()


def _refused_in_mlflow(config: RunConfig, check: Callable[[], None]) -> None:
    """Run a check before the training's own MLflow run; a refusal is recorded as a separate FAILED run."""
    try:
        check()
    except ValueError as error:
        record_refusal(str(error), config)
        raise


@contextlib.contextmanager
def _failure_recorded(run: TrainingRun, is_stopped: Callable[[], bool]) -> Iterator[None]:
    """Records in the MLflow run whether and why the training inside failed or was stopped."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        run.fail(STOPPED, status="KILLED")
        raise
    except BaseException as error:
        if is_stopped():
            raise
        if isinstance(error, ray.train.TrainingFailedError):
            cause = root_cause(error)
            run.fail(cause)
            raise RuntimeError(cause) from error
        run.fail(str(error) or type(error).__name__)
        raise


def _fit(
    config: RunConfig,
    run: TrainingRun,
    lease: Lease,
    *,
    shared: Mapping[str, str],
    callbacks: Sequence[ray.train.UserCallback],
    start_from: str | None,
) -> ray.train.Result:
    """Train on the cluster until the end, through failures of workers, nodes and storage."""
    assert config.storage.uri is not None

    def on_stop() -> None:
        # Before all is saved: a job that is stopped may be killed before that.
        logger.info("%s: stopping after this step, with a checkpoint", config.name)
        run.fail(STOPPED, status="KILLED")

    stop = StopRequest(on_request=on_stop)
    settings = {
        "config": config.model_dump(mode="json"),
        "tracking_uri": run.uri,
        "run_id": run.run_id,
        "start_from": start_from,
        "shared_files": dict(shared),
        "stop_key": stop.key,
    }
    trainer = _trainer(config, settings, callbacks)
    lease.on_lost = stop.supersede
    lease.require()  # it may have been lost while resources were waited for
    with stop, underway(config.name):
        try:
            trained = fit_through_outages(
                trainer.fit,
                max_failures=config.cluster.max_failures,
                uri=config.storage.uri,
                name=config.name,
            )
        except ray.train.TrainingFailedError:
            if not stop.is_made:
                raise
    lease.require()
    if stop.is_made:
        sys.exit(EXIT_CODE)
    return trained


def _trainer(
    config: RunConfig, settings: dict[str, Any], callbacks: Sequence[ray.train.UserCallback]
) -> TorchTrainer:
    cluster = config.cluster
    # Any: Ray's types name Tune's callbacks, which it refuses, and know nothing of elastic training.
    called: Any = [EndWithoutRetry(), KeepNewest(), *map(ValidationsOnly, callbacks)]
    scaling: Any = {
        "num_workers": cluster.num_workers,
        "elastic_resize_monitor_interval_s": cluster.resize_seconds,
    }
    # Any: Ray's types are of its first Train.
    quiet: Any = {"logging_config": ray.train.LoggingConfig(log_level="WARNING")}
    return TorchTrainer(
        train_on_worker,
        train_loop_config=settings,
        scaling_config=ray.train.ScalingConfig(
            **scaling,
            use_gpu=bool(cluster.use_gpu),
            placement_strategy=cluster.placement,
            accelerator_type=cluster.accelerator_type,
            resources_per_worker={"CPU": cluster.cpus_per_worker} | ({"GPU": 1} if cluster.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            **quiet,
            name=config.name,
            storage_path=config.storage.uri,
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=config.training.keep_checkpoints,
                checkpoint_score_attribute=f"val_{config.training.criterion}",
            ),
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
            callbacks=called,
        ),
    )


def _finish(
    config: RunConfig,
    run: TrainingRun,
    trained: ray.train.Result,
    *,
    digest: str,
    weights: Mapping[str, Any],
    lineage: dict[str, str],
    finishes: bool,
) -> TrainResult:
    """Export, score and register the best checkpoint, unless that was done before."""
    checkpoint, reported = best_checkpoint(trained, criterion=config.training.criterion)
    assert config.storage.uri is not None
    address = checkpoint_address(config.storage.uri, config.name, checkpoint.path)

    def result(scores: dict[str, dict[str, float]], version: int | None) -> TrainResult:
        return TrainResult(
            run_id=run.run_id,
            model_version=version,
            metrics=scores,
            checkpoint=address,
            data_digest=digest,
        )

    if (done := run.finished_result()) and done["checkpoint"] == address:
        logger.info("%s: nothing left to train; version %s is registered", config.name, done["version"])
        return result(done["metrics"], done["version"])
    val_scores = {
        key.removeprefix("val_"): value for key, value in reported.items() if key.startswith("val_")
    }
    if not finishes:
        return result({config.data.val_split: val_scores}, None)
    finish: Any = finish_on_worker  # Ray's types know no keyword-only arguments
    # Again, on another node, if this one is lost or cannot read or write. Ray's types know no lists of exceptions.
    retried: Any = {"max_retries": config.cluster.max_failures, "retry_exceptions": [OSError]}
    task = ray.remote(
        num_cpus=config.cluster.cpus_per_worker, num_gpus=int(config.cluster.use_gpu), **retried
    )(finish)
    try:
        scores, version = ray.get(
            task.remote(
                checkpoint,
                config=config,
                val_scores=val_scores,
                uri=run.uri,
                run_id=run.run_id,
                data_digest=digest,
                weights=weights,
                lineage_tags=lineage,
            )
        )
    except ray.exceptions.RayTaskError as error:
        raise RuntimeError(f"after training: {error.cause}") from error
    except ray.exceptions.RayError as error:  # the node, or the process, was lost once too often
        raise RuntimeError(f"after training: {str(error).strip().splitlines()[0]}") from error
    run.set_finished_result(checkpoint=address, version=version, metrics=scores)
    return result(scores, version)


def _log_summary(config: RunConfig, result: TrainResult, uri: str) -> None:
    lines = [f"\n{config.name} finished"]
    lines += [f"  {split:<16} {format_scores(scores)}" for split, scores in result.metrics.items()]
    if result.model_version is not None:
        lines.append(f"  model            models:/{config.tracking.registered_model}/{result.model_version}")
    lines += [f"  MLflow run       {result.run_id} at {uri}", f"  checkpoint       {result.checkpoint}"]
    logger.info("\n".join(lines))
