"""The bank of audio semantics of a training: the file that its config names, or one made of its training split."""

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

from sdavs_model.architectures.ddeseg.bank import check_bank, with_bank
from sdavs_model.architectures.ddeseg.config import DDESegConfig
from sdavs_model.config import ModelConfig
from sdavs_model.data.core.clip_set import ClipSet
from sdavs_model.data.tools.audio_bank import make_bank
from sdavs_model.encoders.audio import build_audio_encoder
from sdavs_model.weights.audio_bank import AudioBank, encoder_digest, read_bank, write_bank
from sdavs_model.weights.read import configured_weights
from sdavs_platform.config.paths import absolute, state_folder
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.console import progress
from sdavs_platform.storage.datasets import open_split

logger = logging.getLogger(__name__)

BANK_VERSION = 1
"""Goes up with every change of what a bank is made of."""


def resolve_bank(config: RunConfig) -> ModelConfig:
    """The model's config with the file and the classes of its bank; as it is for models without one.

    Args:
        config: with the files of its weights, and its data, filled in.

    Raises:
        ValueError: the bank does not fit the model, its audio encoder or the data, or cannot be made; names the key.
    """
    model = config.model
    if not isinstance(model, DDESegConfig) or not model.needs_bank:
        return model
    if not model.audio_encoder_is_frozen:
        raise ValueError(
            "model.freeze_audio_encoder: the bank holds outputs of the audio encoder, which therefore must not be "
            "trained; set it to true and name model.audio_weights, or set model.ablation.derivation=false"
        )
    clips = open_split(config, config.data.train_split).source
    if model.bank is not None and Path(model.bank).parent == banks_folder():
        # Made by a training, or by the sweep that this training is a trial of, perhaps with another n.
        model = dataclasses.replace(model, bank=None, bank_classes=())
    if model.bank is None:
        return _with_made_bank(model, clips, split=config.data.train_split)
    path = absolute(model.bank)
    bank = read_bank(path, field="model.bank")
    encoder = build_audio_encoder(model, configured_weights(model)[1])
    check_bank(model, bank, embedding=encoder.embedding, prefix="model.")
    _check_origin(model, bank, clips, encoder=encoder_digest(encoder))
    return with_bank(model, path, bank)


def banks_folder() -> Path:
    """Where trainings keep the banks that they make."""
    return state_folder() / "banks"


def _with_made_bank(model: DDESegConfig, clips: ClipSet, *, split: str) -> DDESegConfig:
    """Make the bank of these clips, or find it made."""
    path = _bank_file(model, clips)
    if not path.is_file():
        logger.info("making a bank of audio semantics from split %r of %s", split, clips.root)
        with progress() as show:
            write_bank(path, make_bank(clips, model, num_prototypes=model.num_prototypes, progress=show))
    bank = read_bank(path, field="model.bank")
    check_bank(model, bank, prefix="model.")
    return with_bank(model, str(path), bank)


def _bank_file(model: DDESegConfig, clips: ClipSet) -> Path:
    """The file in the state folder, named after everything that decides its content."""
    made_of = {
        "version": BANK_VERSION,
        "encoder": encoder_digest(build_audio_encoder(model, configured_weights(model)[1])),
        "data": clips.digest,
        "preprocess": dataclasses.asdict(model.preprocess) | {"image_size": None, "mean": None, "std": None},
        "num_prototypes": model.num_prototypes,
    }
    name = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]
    return banks_folder() / f"{name}.safetensors"


def _check_origin(model: DDESegConfig, bank: AudioBank, clips: ClipSet, *, encoder: str) -> None:
    record = bank.record
    expected = model.bank_data_digest or clips.digest
    if record.data_digest != expected:
        hint = (
            ""
            if model.bank_data_digest
            else f"; if that is meant, set model.bank_data_digest={record.data_digest}"
        )
        raise ValueError(
            f"model.bank: was made from data with digest {record.data_digest}, not {expected}{hint}"
        )
    if record.encoder_digest != encoder:
        raise ValueError(
            f"model.bank: was made with other weights of {model.audio_encoder} than model.audio_weights"
        )
    known = set(clips.classes[1:]) if clips.num_classes > 1 else set()
    if known and (others := sorted(set(record.classes) - known)):
        raise ValueError(
            f"model.bank: has classes that {clips.root} does not have: {', '.join(others)}; "
            f"allowed: {', '.join(sorted(known))}"
        )
