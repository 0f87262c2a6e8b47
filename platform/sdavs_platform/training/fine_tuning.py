"""Fine-tuning: where the weights come from, which of them fit, and which stay frozen.

The driver finds the weights once and writes them to the training's folder in the storage, so that all workers read the
same weights and an alias that moves changes nothing. They are read until the training has a checkpoint of its own.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

import ray.train
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

import sdavs_model
from sdavs_model.artifact_files import CARD_FILE, WEIGHTS_FILE
from sdavs_model.config import ModelConfig
from sdavs_model.encoders.encoder import Encoder
from sdavs_model.suggestions import nearest_or_all
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.storage.datasets import open_split
from sdavs_platform.storage.filesystem import Storage
from sdavs_platform.tracking.runs import TrainingRun
from sdavs_platform.training.checkpoints.checkpoint import load_weights, verify_complete
from sdavs_platform.training.checkpoints.listing import best_checkpoint, checkpoint_address

if TYPE_CHECKING:
    from sdavs_model import SegmentationModel

logger = logging.getLogger(__name__)

FIELD = "start.from"
MANIFEST = "manifest-rank0.json"
WEIGHTS = "start/model.safetensors"
RECORD = "start/start.json"
"""Path of the record, below the training's folder in the storage."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The weights that a training starts from."""

    address: str
    """Without aliases: models:/NAME/VERSION, a checkpoint, or an artifact's folder."""
    run_id: str
    """MLflow run of the training that they come from; empty if unknown."""
    config: ModelConfig
    classes: list[str] | None
    """Names of the mask values; None for a checkpoint, which does not have them."""
    weights: dict[str, Tensor]


def prepare_start(config: RunConfig, *, has_checkpoints: bool) -> dict[str, str]:
    """Find the weights of `start.from` and keep them for the workers; for the driver, before it starts any worker.

    Args:
        has_checkpoints: of this training, which then resumes; what it started from is read from the storage.

    Returns:
        Lineage as tags of the run and of the registered version; empty for a training from scratch.

    Raises:
        ValueError: there are no such weights, they were changed, or they do not fit the model.
    """
    source_name = config.start.source
    if source_name is None:
        return {}
    storage = _storage(config)
    if has_checkpoints:
        record = storage.read(f"{config.name}/{RECORD}")
        return json.loads(record)["lineage"] if record else {}
    source = find_source(source_name, config)
    classes = list(open_split(config, config.data.val_split).source.classes)
    model = _on_meta(config.model)
    is_semantic = config.model.num_classes > 1
    replaces_head = source.config.num_classes != config.model.num_classes or (
        is_semantic and source.classes is not None and source.classes != classes
    )
    replaced = head_of(config.model) if replaces_head else set()
    own = replaced | model.data_buffers()
    require_fit(model, source, replaced=own)
    if config.data.cache_features:
        _require_same_encoders(source, config.model)
    weights = save(
        {name: value.clone().contiguous() for name, value in source.weights.items() if name not in own}
    )
    lineage = {"start_from": source.address, "start_run_id": source.run_id}
    storage.write(f"{config.name}/{WEIGHTS}", weights)
    storage.write(f"{config.name}/{RECORD}", json.dumps({"lineage": lineage}, indent=2).encode())
    logger.info("%s: starting from the weights of %s", config.name, source.address)
    if replaced:
        logger.info(
            "%s: it has other classes (%d mask values instead of %d); starting from random weights: %s",
            config.name,
            len(classes),
            max(source.config.num_classes, 2),
            ", ".join(sorted(replaced)),
        )
    return lineage


def load_start(model: nn.Module, config: RunConfig) -> None:
    """Give a worker's new model the weights that the driver has kept; a replaced head stays as it is."""
    with _storage(config).open(f"{config.name}/{WEIGHTS}") as stream:
        _, unexpected = model.load_state_dict(load(stream.read()), strict=False)
    assert not unexpected


def freeze_parts(model: nn.Module, names: Iterable[str]) -> None:
    """Never train these submodules again: no gradients, and eval mode whatever the model around them does.

    Raises:
        ValueError: there is no such part, or nothing is left to train.
    """
    known = {name for name, _ in model.named_modules() if name}
    for name in names:
        if name not in known:
            parts = [child for child, _ in model.named_children()]
            raise ValueError(
                f"training.freeze: no part {name!r}; {nearest_or_all(name, parts)} and the parts inside them"
            )
        part = model.get_submodule(name)
        if isinstance(part, Encoder):
            part.freeze()
            continue
        part.requires_grad_(False)
        part.train = MethodType(_stay_in_eval_mode, part)  # type: ignore[method-assign]
        part.eval()
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("training.freeze: nothing is left to train")


def check_frozen_parts(config: RunConfig) -> None:
    """`freeze_parts` on a model on the meta device; for the driver, before it starts any worker.

    Raises:
        ValueError: see there.
    """
    if config.training.freeze:
        freeze_parts(_on_meta(config.model), config.training.freeze)


def find_source(name: str, config: RunConfig) -> Source:
    """The weights behind a registered model's address, the id of a run, or the address of a checkpoint or artifact.

    Raises:
        ValueError: there is none; names the allowed forms.
    """
    assert config.tracking.uri is not None
    if name.startswith("models:/"):
        return _registered(name, uri=config.tracking.uri)
    if re.fullmatch(r"[0-9a-f]{32}", name):
        return _of_run(name, uri=config.tracking.uri)
    address = name.rstrip("/").removesuffix(f"/{WEIGHTS_FILE}").removesuffix(f"/{CARD_FILE}")
    storage = Storage(address, field=FIELD)
    storage.require()
    if storage.exists(CARD_FILE):
        return _artifact(storage)
    if storage.exists(MANIFEST):
        return _checkpoint(address, uri=config.tracking.uri)
    raise ValueError(
        f"{FIELD}: {name} is neither a checkpoint ({MANIFEST}) nor a model artifact ({CARD_FILE}); allowed: "
        f"models:/NAME@ALIAS, models:/NAME/VERSION, the id of an MLflow run, the address of one of these folders"
    )


def require_fit(model: nn.Module, source: Source, *, replaced: set[str]) -> None:
    """Check that all weights of the model but the replaced ones are there, with the same shapes.

    Raises:
        ValueError: names the first weight that is not, and the keys that make the difference.
    """
    own = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in replaced}
    found = {name: tuple(value.shape) for name, value in source.weights.items() if name not in replaced}
    wrong = sorted(name for name in own.keys() | found.keys() if own.get(name) != found.get(name))
    if wrong:
        config: Any = model.config
        theirs, ours = source.config.to_dict(), config.to_dict()
        keys = "; ".join(
            f"model.{key} is {ours[key]!r}, there {theirs.get(key)!r}"
            for key in config.weight_keys
            if ours[key] != theirs.get(key)
        )
        raise ValueError(
            f"{FIELD}: {source.address} does not fit the model: {wrong[0]} is {own.get(wrong[0], 'missing')} here and "
            f"{found.get(wrong[0], 'missing')} there, and so for {len(wrong)} of {len(own)} weights"
            + (f" ({keys})" if keys else "")
        )


def head_of(config: ModelConfig) -> set[str]:
    """Names of the weights whose shapes depend on the number of classes."""
    own, other = (
        {name: value.shape for name, value in _on_meta(each).state_dict().items()}
        for each in (config, dataclasses.replace(config, num_classes=config.num_classes + 1))
    )
    return {name for name in own if own[name] != other[name]}


def _require_same_encoders(source: Source, config: ModelConfig) -> None:
    """Features are cached with the encoders that the config names: the source must have the same ones."""
    own = sdavs_model.build_model(config).state_dict()
    for name, value in own.items():
        if name.startswith(("visual_encoder.", "audio_encoder.")) and not torch.equal(
            value, source.weights[name]
        ):
            raise ValueError(
                f"data.cache_features: the encoders of {source.address} are not those that model.backbone_weights and "
                f"model.audio_weights name ({name} differs); name the same ones, or set data.cache_features=false"
            )


def _registered(name: str, *, uri: str) -> Source:
    # Comes with MLflow, which workers do not need.
    from sdavs_platform.tracking.registry import fetch_version, resolve

    found = resolve(name, uri=uri)
    loaded = sdavs_model.load_artifact(fetch_version(found, uri=uri), sha256=found.sha256)
    return Source(
        address=f"models:/{found.name}/{found.version}",
        run_id=found.run_id,
        config=loaded.config,
        classes=loaded.classes,
        weights=loaded.model.state_dict(),
    )


def _of_run(run_id: str, *, uri: str) -> Source:
    run = TrainingRun(uri=uri, run_id=run_id)
    config = run.recorded_config()
    if (done := run.finished_result()) and done["version"] is not None:
        return _registered(f"models:/{config.tracking.registered_model}/{done['version']}", uri=uri)
    assert config.storage.uri is not None
    trained = ray.train.Result.from_path(f"{config.storage.uri.rstrip('/')}/{config.name}")
    best, _ = best_checkpoint(trained, criterion=config.training.criterion)
    return _checkpoint(checkpoint_address(config.storage.uri, config.name, best.path), uri=uri)


def _artifact(storage: Storage) -> Source:
    with tempfile.TemporaryDirectory(prefix="sdavs-start-") as scratch:
        for name in (CARD_FILE, WEIGHTS_FILE):
            with storage.open(name) as stream:
                (Path(scratch) / name).write_bytes(stream.read())
        loaded = sdavs_model.load_artifact(scratch)
    return Source(
        address=storage.uri,
        run_id=str(loaded.lineage.get("run_id", "")),
        config=loaded.config,
        classes=loaded.classes,
        weights=loaded.model.state_dict(),
    )


def _checkpoint(address: str, *, uri: str) -> Source:
    storage, name, _ = address.rsplit("/", 2)
    run = TrainingRun.find(name, storage=storage, uri=uri)
    if run is None:
        raise ValueError(f"{FIELD}: {uri} knows no training {name!r} with checkpoints at {storage}")
    config = run.recorded_config()
    with ray.train.Checkpoint(address).as_directory() as folder:
        verify_complete(Path(folder))
        weights = load_weights(Path(folder), zero_stage=config.deepspeed.zero_stage)
    return Source(address=address, run_id=run.run_id, config=config.model, classes=None, weights=weights)


def _on_meta(config: ModelConfig) -> SegmentationModel:
    with torch.device("meta"):
        return sdavs_model.build_model(config.without_weights())


def _storage(config: RunConfig) -> Storage:
    assert config.storage.uri is not None
    return Storage(config.storage.uri, field="storage.uri")


def _stay_in_eval_mode(part: nn.Module, mode: bool = True) -> nn.Module:
    return nn.Module.train(part, mode=False)
