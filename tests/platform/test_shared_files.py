"""Pretrained weights reach machines that do not have them by way of the storage."""

import json
from pathlib import Path
from typing import Any

import pytest
from sdavs_platform.config.cli import validated
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.training import loop, shared_files
from sdavs_platform.training.shared_files import FOLDER, share_files, with_files_here

from sdavs_model.files import sha256_of

CONTENT = b"tensors"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A config with a file of weights and its record, in a cluster of several machines."""
    monkeypatch.setenv("SDAVS_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(shared_files, "may_have_other_nodes", lambda cluster: True)
    file = tmp_path / "yamnet.audioset.safetensors"
    file.write_bytes(CONTENT)
    file.with_suffix(".json").write_text(json.dumps({"licence": "free"}))
    model = {"audio_encoder": "yamnet", "audio_weights": str(file)}
    return validated({"model": model, "storage": {"uri": str(tmp_path / "results")}})


def test_a_machine_without_the_file_gets_it_with_its_record_under_its_name(config: Any, tmp_path):
    shared = share_files(config)
    path = Path(config.model.audio_weights)
    assert with_files_here(config, shared) == config
    path.unlink()
    path.with_suffix(".json").unlink()
    there = Path(with_files_here(config, shared).model.audio_weights)
    assert there.is_relative_to(tmp_path / "elsewhere")
    assert (there.name, there.read_bytes()) == (path.name, CONTENT)
    assert json.loads(there.with_suffix(".json").read_text()) == {"licence": "free"}


def test_a_file_is_written_once_and_not_at_all_where_there_is_one_machine(config: Any, tmp_path, monkeypatch):
    share_files(config)
    (written,) = (tmp_path / "results" / FOLDER).glob("*/*.safetensors")
    assert written.parent.name == sha256_of(written)
    before = written.stat().st_mtime_ns
    share_files(config)
    assert written.stat().st_mtime_ns == before
    monkeypatch.setattr(shared_files, "may_have_other_nodes", lambda cluster: False)
    assert share_files(config) == {}


def test_what_the_storage_does_not_have_or_has_changed_is_an_error_that_is_tried_again(config: Any, tmp_path):
    shared = share_files(config)
    Path(config.model.audio_weights).unlink()
    (written,) = (tmp_path / "results" / FOLDER).glob("*/*.safetensors")
    written.write_bytes(b"other")
    with pytest.raises(ConnectionError, match=r"yamnet\.audioset\.safetensors: its sha256 is"):
        with_files_here(config, shared)
    written.unlink()
    with pytest.raises(ConnectionError, match="is missing"):
        with_files_here(config, shared)


def test_a_hub_that_is_away_for_a_worker_is_tried_again_and_a_file_that_does_not_fit_is_not(
    config, monkeypatch
):
    for message, kind in {
        "pretrained: timm could not fetch": ConnectionError,
        "3 missing": ValueError,
    }.items():

        def fail(model: Any, message: str = message) -> None:
            raise ValueError(message)

        monkeypatch.setattr(loop, "build_model", fail)
        with pytest.raises(kind, match=message):
            loop.build_initial(config)
