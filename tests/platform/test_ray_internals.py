"""One contract a function of `ray_internals`: what an upgrade of Ray may not change unnoticed."""

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from ray.train.torch import TorchTrainer
from sdavs_platform import ray_internals
from sdavs_platform.training.faults.retries import root_cause
from waiting import patience, wait_until


def trainer(worker: Any, folder: Path, *callbacks: ray.train.UserCallback) -> TorchTrainer:
    called: Any = list(callbacks)
    return TorchTrainer(
        worker,
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(name="run", storage_path=str(folder), callbacks=called),
    )


@pytest.fixture(scope="module")
def reported(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ray.train.Result]:
    """The storage after a training of one checkpoint, and its result."""

    def worker() -> None:
        from sdavs_platform.ray_internals import is_preempted

        folder = Path(tempfile.mkdtemp())
        (folder / "weights").write_text("1")
        metrics = {"preempted": is_preempted()}
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    folder = tmp_path_factory.mktemp("storage")
    return folder / "run", trainer(worker, folder).fit()


def test_the_key_value_store_keeps_lists_refuses_and_forgets(cluster):
    assert ray_internals.kv_get("test/1") is None
    assert ray_internals.kv_put("test/1", "one") is False
    assert ray_internals.kv_put("test/1", b"two", overwrite=False) is True
    assert ray_internals.kv_get("test/1") == b"one"
    ray_internals.kv_put("test/2", b"two")
    assert sorted(ray_internals.kv_keys("test/")) == ["test/1", "test/2"]
    ray_internals.kv_delete("test/1")
    ray_internals.kv_delete("test/1")
    assert ray_internals.kv_keys("test/") == ["test/2"]
    ray_internals.kv_delete("test/2")


def test_every_process_sees_the_same_keys(cluster):
    @ray.remote(num_cpus=0)
    def put() -> None:
        from sdavs_platform.ray_internals import kv_put

        kv_put("test/shared", b"from a task")

    ray.get(put.remote())
    assert ray_internals.kv_get("test/shared") == b"from a task"
    ray_internals.kv_delete("test/shared")


def test_a_training_leaves_its_list_of_checkpoints_and_the_marker_of_its_storage(reported):
    folder, result = reported
    assert (folder / ray_internals.CHECKPOINT_LIST).is_file()
    assert (folder / ray_internals.STORAGE_MARKER).read_bytes() == b""
    read = ray.train.Result.from_path(folder)
    assert read.checkpoint.path == result.checkpoint.path
    assert read.metrics == result.metrics


def test_a_worker_is_notified_when_a_node_is_drained(reported):
    assert reported[1].metrics["preempted"] is False


def test_a_worker_that_hangs_fails_with_the_error_of_its_other_thread(cluster, tmp_path):
    def worker() -> None:
        from sdavs_platform.ray_internals import fail_worker

        threading.Thread(target=fail_worker, args=(TimeoutError("no step for 1 s"),)).start()
        time.sleep(1000)

    with pytest.raises(ray.train.WorkerGroupError) as failed:
        trainer(worker, tmp_path).fit()
    # As raised, and not in an envelope of Ray's.
    assert type(failed.value.worker_failures[0]) is TimeoutError
    assert root_cause(failed.value) == "TimeoutError: no step for 1 s"


def test_a_training_in_another_thread_can_be_aborted(cluster, tmp_path):
    from ray.util.queue import Queue

    class Controller(ray.train.UserCallback):
        """Puts the controller's handle into a queue. Defined here, so that Ray sends it by value."""

        def __init__(self, queue: Any) -> None:
            self._queue = queue

        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            self._queue.put(ray.get_runtime_context().current_actor)

    def worker() -> None:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        (folder / "weights").write_text("1")
        ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(folder))
        time.sleep(1000)

    def fit() -> None:
        with pytest.raises((ray.train.TrainingFailedError, ray.exceptions.RayError)):
            trainer(worker, tmp_path, Controller(queue)).fit()

    queue = Queue(actor_options={"num_cpus": 0})
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    ray_internals.abort_training(queue.get(timeout=patience(60)))
    thread.join(patience(60))
    assert not thread.is_alive()
    wait_until(lambda: ray.available_resources().get("CPU") == 2, what="both CPUs")
    queue.shutdown()


def test_the_dashboard_is_sent_the_token_where_ray_asks_for_one(monkeypatch):
    # In a process of its own: Ray reads mode and token once.
    import subprocess
    import sys

    program = "from sdavs_platform.ray_internals import dashboard_headers; print(dashboard_headers())"
    for mode, headers in (("disabled", {}), ("token", {"authorization": f"Bearer {'a' * 64}"})):
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert {name.lower(): value for name, value in eval(done.stdout).items()} == headers


def test_the_latest_cluster_is_noted_in_rays_temporary_folder():
    assert ray_internals.latest_cluster_file().name == "ray_current_cluster"


def test_the_newest_two_checkpoints_are_kept_besides_the_best(tmp_path):
    import asyncio

    from ray.train.v2._internal.execution.checkpoint import checkpoint_manager
    from ray.train.v2._internal.execution.storage import StorageContext
    from ray.train.v2._internal.execution.training_report import _TrainingReport

    own = checkpoint_manager.CheckpointManager._save_state_and_delete_old_checkpoints
    storage = StorageContext(storage_path=str(tmp_path), experiment_dir_name="run")
    config = ray.train.CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="val_miou")

    async def report(scores: list[float]) -> Any:
        manager = checkpoint_manager.CheckpointManager(config, storage)
        for step, score in enumerate(scores):
            folder = tmp_path / "run" / f"checkpoint_{step}"
            folder.mkdir(parents=True)
            checkpoint = ray.train.Checkpoint(str(folder), storage.storage_filesystem)
            metrics = {"val_miou": score}
            manager.register_checkpoint(_TrainingReport(checkpoint, metrics, validation=False))
        return manager

    try:
        ray_internals.keep_newest_checkpoints(2)
        ray_internals.keep_newest_checkpoints(2)
        manager = asyncio.run(report([0.1, 0.9, 0.5, -1.0, -1.0]))
    finally:
        checkpoint_manager.CheckpointManager._save_state_and_delete_old_checkpoints = own
    kept = ["checkpoint_1", "checkpoint_3", "checkpoint_4"]
    assert sorted(folder.name for folder in (tmp_path / "run").glob("checkpoint_?")) == kept
    assert not manager.get_pending_training_results()
    # The list that a new controller reads names the same ones, the best one last.
    listed = checkpoint_manager.CheckpointManager(config, storage)._checkpoint_results
    assert [result.metrics["val_miou"] for result in listed] == [-1.0, -1.0, 0.9]
