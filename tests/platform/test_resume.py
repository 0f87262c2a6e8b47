"""A worker killed in the middle of an epoch, and a checkpoint damaged afterwards: the training ends all the same."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from dying_workers import DEATHS, die_while_uploading
from sdavs_platform.ray_internals import CHECKPOINT_LIST
from sdavs_platform.tracking.client import mlflow_client
from sdavs_platform.training.checkpoints.checkpoint import verify_complete
from sdavs_platform.training.export import consolidate, export_from_storage
from sdavs_platform.training.run import TrainResult, train

pytestmark = pytest.mark.usefixtures("cluster")

STEPS = 8


@pytest.fixture(scope="module")
def config(make_config: Any) -> Any:
    """8 steps with a checkpoint after every second and a validation at the end; batch statistics in the backbone."""

    def make(name: str, num_workers: int = 2) -> Any:
        return make_config(
            name,
            model={"backbone": "test_resnet", "image_size": 32, "width": 16, "num_heads": 2},
            training={
                "epochs": 2,
                "val_every": 2,
                "batch_size": 2,
                "log_every": 2,
                "checkpoint_every": 2,
            },
            data={"test_splits": []},
            cluster={"num_workers": num_workers},
        )

    return make


@pytest.fixture(scope="module")
def undisturbed(config: Any, cluster: None) -> TrainResult:
    return train(config("undisturbed"), finishes=False)


@pytest.fixture(scope="module")
def killed(config: Any, cluster: None) -> TrainResult:
    """The same training; one of its workers is killed while its third checkpoint arrives."""
    with pytest.MonkeyPatch.context() as patch:
        die_while_uploading(patch, number=3)
        result = train(config("killed"), finishes=False)
    assert checkpoint_list(config("killed")).with_name(DEATHS).read_text() == "1"
    assert not list(Path(tempfile.gettempdir()).glob(f"sdavs-checkpoint-{result.run_id}-*"))
    return result


def checkpoint_list(config: Any) -> Path:
    return Path(config.storage.uri) / config.name / CHECKPOINT_LIST


def newest_checkpoint(config: Any) -> Path:
    known = json.loads(checkpoint_list(config).read_text())
    return checkpoint_list(config).parent / known["latest_checkpoint_result"]["checkpoint_dir_name"]


def weights(result: TrainResult, config: Any) -> dict[str, torch.Tensor]:
    model, _ = consolidate(
        Path(result.checkpoint), config=config.model, zero_stage=2, dtype=torch.float32, tolerance=1e-3
    )
    return model.state_dict()


def points(result: TrainResult, config: Any, key: str) -> list[tuple[int, float]]:
    history = mlflow_client(config.tracking.uri).get_metric_history(result.run_id, key)
    return [(point.step, point.value) for point in history]


def test_after_a_worker_was_killed_the_training_ends_with_the_undisturbed_weights_to_the_last_bit(
    undisturbed, killed, config
):
    expected, found = weights(undisturbed, config("undisturbed")), weights(killed, config("killed"))
    assert expected.keys() == found.keys()
    assert all(expected[name].equal(found[name]) for name in expected)
    assert killed.metrics == undisturbed.metrics


@pytest.mark.parametrize("key", ["train/loss", "train/lr", "train/grad_norm", "val/miou"])
def test_the_killed_training_has_the_undisturbed_curves_without_a_point_twice(
    undisturbed, killed, config, key
):
    curve = points(killed, config("killed"), key)
    assert curve == points(undisturbed, config("undisturbed"), key)
    assert len({step for step, _ in curve}) == len(curve)
    assert curve[-1][0] == STEPS


def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before_also_by_fewer_workers(killed, config):
    newest = newest_checkpoint(config("killed"))
    assert verify_complete(newest) == 2
    shard = next(newest.glob("shards/*rank_1*optim_states.safetensors"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=f"{shard.name}: differs from what was written"):
        verify_complete(newest)
    again = train(config("killed", num_workers=1), finishes=False)
    assert again.run_id == killed.run_id
    assert newest_checkpoint(config("killed")) != newest
    assert verify_complete(newest_checkpoint(config("killed"))) == 1


def test_any_checkpoint_becomes_an_artifact_on_demand(undisturbed, config, tmp_path):
    from sdavs_model import load_artifact

    settings = config("undisturbed")
    known = json.loads(checkpoint_list(settings).read_text())["checkpoint_results"]
    between = next(one["checkpoint_dir_name"] for one in known if one["metrics"]["val_miou"] < 0)
    exported = export_from_storage(
        settings.name,
        storage=settings.storage.uri,
        uri=settings.tracking.uri,
        checkpoint=between,
        out=tmp_path,
    )
    assert exported["step"] < STEPS
    assert load_artifact(tmp_path).lineage["checkpoint"].endswith(between)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB, where the first checkpoint finds no room."""
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path], capture_output=True
        ).returncode
    ):
        pytest.skip("mounting a small disk needs root")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_storage_without_room_ends_in_one_clear_failure(config, small_disk):
    settings = config("no-room", num_workers=1)
    full = settings.model_copy(
        update={
            "storage": settings.storage.model_copy(update={"uri": str(small_disk)}),
            "cluster": settings.cluster.model_copy(update={"max_failures": 0}),
        }
    )
    with pytest.raises(RuntimeError, match="No space left on device"):
        train(full, finishes=False)
