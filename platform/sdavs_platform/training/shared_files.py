"""The files that a model starts from, pretrained weights and a bank, for machines that do not have them.

The driver finds or fetches them and uploads them to the storage. A worker on another machine downloads them from there,
once per machine. A training that has a checkpoint needs only the files of cached features.
"""

import dataclasses
import fcntl
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdavs_model.config import ModelConfig
from sdavs_model.files import replacing, sha256_of, write_atomically
from sdavs_platform.cluster import may_have_other_nodes
from sdavs_platform.config.paths import weights_folder
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.storage.filesystem import Storage

logger = logging.getLogger(__name__)

KEYS = ("backbone_weights", "audio_weights", "bank")
"""Keys of the section `model` that name a file, in some architectures."""

FOLDER = "weights"
"""Folder in the storage, next to the trainings; each file is in a folder that is named after its sha256."""


def share_files(config: RunConfig) -> dict[str, str]:
    """Upload the files of a resolved config, with their records, unless they are there already or the cluster is this
    machine.

    Returns:
        Path on this machine -> sha256, for `with_files_here`.

    Raises:
        ValueError: the storage cannot be written.
    """
    files = [Path(path) for path in _paths(config.model).values() if Path(path).is_file()]
    if not files or not may_have_other_nodes(config.cluster):
        return {}
    storage, shared = _storage(config), {}
    for file in files:
        shared[str(file)] = digest = sha256_of(file)
        if storage.exists(f"{FOLDER}/{digest}/{file.name}"):
            continue
        logger.info("%s: copying %s to the storage, for other machines", config.name, file.name)
        record = file.with_suffix(".json")
        for each in (record, file) if record.is_file() else (file,):
            with each.open("rb") as source:
                storage.write_from(f"{FOLDER}/{digest}/{each.name}", source)
    return shared


def with_files_here(config: RunConfig, shared: Mapping[str, str]) -> RunConfig:
    """The config with files that are on this machine; those that are not are fetched into the state folder, once.

    Args:
        shared: what `share_files` has returned, perhaps on another machine.

    Raises:
        ConnectionError: the storage cannot be reached, or has other bytes. It may be there again for the next attempt.
    """
    found: dict[str, Any] = {
        key: str(_fetched(_storage(config), Path(path).name, shared[path]))
        for key, path in _paths(config.model).items()
        if path in shared and not Path(path).is_file()
    }
    return config.model_copy(update={"model": dataclasses.replace(config.model, **found)})


def _paths(model: ModelConfig) -> dict[str, str]:
    return {key: path for key in KEYS if (path := getattr(model, key, None)) is not None}


def _fetched(storage: Storage, name: str, digest: str) -> Path:
    """A shared file on this machine. Of its processes one fetches it."""
    file = (
        weights_folder() / "shared" / digest / name
    )  # under its name, which the config of the run is known by
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.is_file():
            record = file.with_suffix(".json")
            if content := storage.read(f"{FOLDER}/{digest}/{record.name}"):
                write_atomically(record, content)
            with replacing(file) as part:
                with storage.open(f"{FOLDER}/{digest}/{name}") as source, part.open("wb") as target:
                    shutil.copyfileobj(source, target)
                if (read := sha256_of(part)) != digest:
                    raise ConnectionError(f"{storage.uri}/{FOLDER}/{digest}/{name}: its sha256 is {read}")
    except (ValueError, OSError) as error:
        raise ConnectionError(str(error)) from error
    finally:
        os.close(lock)
    return file


def _storage(config: RunConfig) -> Storage:
    assert config.storage.uri is not None
    return Storage(config.storage.uri, field="storage.uri")
