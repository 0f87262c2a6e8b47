"""What is checked before any worker starts: config and data of the checkpoints, and the registry."""

import json
from pathlib import Path
from typing import Any

import pytest
import ray
from databases import mlflow_database
from mlflow.exceptions import MlflowException
from sdavs_platform.config.cli import validated
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.ray_internals import CHECKPOINT_LIST
from sdavs_platform.tracking import registry
from sdavs_platform.tracking.client import mlflow_client
from sdavs_platform.tracking.runs import changed_keys
from sdavs_platform.training.preflight import RECORD_FILE, CheckpointRecord
from sdavs_platform.training.run import train

pytestmark = pytest.mark.slow


@pytest.fixture
def trained(make_config: Any) -> RunConfig:
    """A training that has left checkpoints, and of which MLflow knows nothing: its run was deleted, or is elsewhere."""
    config = make_config("forgotten")
    CheckpointRecord(config, storage=config.storage.uri, has_checkpoints=False).write("digest")
    (folder_of(config) / CHECKPOINT_LIST).write_text("{}")
    return config


def folder_of(config: RunConfig) -> Path:
    return Path(str(config.storage.uri), config.name)


def with_keys(config: RunConfig, section: str, **keys: Any) -> RunConfig:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=keys)})


def test_another_config_than_the_checkpoints_is_refused_whatever_mlflow_has(trained):
    changed = with_keys(trained, "optimizer", lr=0.5)
    with pytest.raises(
        ValueError, match=r"'forgotten' was trained with another config \(optimizer.lr was 0.0001\)"
    ):
        train(changed)
    elsewhere = with_keys(changed, "tracking", experiment="other")
    with pytest.raises(ValueError, match="trained with another config"):
        train(elsewhere)
    assert not ray.is_initialized()
    client = mlflow_client(trained.tracking.uri)
    experiment = client.get_experiment_by_name("other")
    (refused,) = client.search_runs([experiment.experiment_id])
    assert refused.info.status == "FAILED"


def test_other_data_than_the_checkpoints_is_refused_whatever_mlflow_has(trained):
    with pytest.raises(ValueError, match=r"data.root: not the data that this name was trained on"):
        train(trained)
    assert json.loads((folder_of(trained) / RECORD_FILE).read_text())["data_digest"] == "digest"


def test_keys_that_may_change_on_a_resume_are_no_other_config(trained):
    for section, keys in {
        "tracking": {"experiment": "other"},
        "training": {"max_minutes": 1.0},
        "cluster": {"num_workers": 1},
    }.items():
        changed = with_keys(trained, section, **keys)
        record = CheckpointRecord(changed, storage=str(trained.storage.uri), has_checkpoints=True)
        record.require_same_config()


def test_pretrained_weights_may_be_in_another_folder_on_a_resume_but_not_others():
    before = {"model.audio_weights": "/here/weights/yamnet.audioset.safetensors"}
    moved, other = (
        validated({"model": {"audio_encoder": "yamnet", "audio_weights": f"/there/{name}.safetensors"}})
        for name in ("yamnet.audioset", "other")
    )
    assert changed_keys(moved, before) == []
    assert changed_keys(other, before) == ["model.audio_weights"]


def test_a_name_without_checkpoints_begins_again_with_any_config(trained):
    (folder_of(trained) / CHECKPOINT_LIST).unlink()
    changed = with_keys(trained, "optimizer", lr=0.5)
    record = CheckpointRecord(changed, storage=str(trained.storage.uri), has_checkpoints=False)
    record.require_same_config()
    record.write("other digest")
    assert json.loads((folder_of(trained) / RECORD_FILE).read_text())["data_digest"] == "other digest"


def test_checkpoints_of_before_such_records_get_one(trained):
    (folder_of(trained) / RECORD_FILE).unlink()
    record = CheckpointRecord(trained, storage=str(trained.storage.uri), has_checkpoints=True)
    record.require_same_config()
    record.write("digest")
    assert (folder_of(trained) / RECORD_FILE).is_file()


def test_a_registry_that_refuses_is_reported_before_any_worker_starts(make_config, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise MlflowException("read-only")

    monkeypatch.setattr(registry, "_create_registered_model", refuse)
    with pytest.raises(
        ValueError, match=r"tracking.registered_model: the registry at .* refuses 'sdavs': read-only"
    ):
        train(make_config("unregistered"))
    assert not ray.is_initialized()


def test_a_registry_that_takes_versions_has_the_model_before_it_is_trained(tmp_path):
    uri = mlflow_database(tmp_path)
    for _ in range(2):
        registry.require_registry_access("new", uri=uri)
    model = mlflow_client(uri).get_registered_model("new")
    assert model.description == "Audio-visual segmentation"
