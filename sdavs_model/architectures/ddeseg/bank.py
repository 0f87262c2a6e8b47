"""The bank of audio semantics that a config names, checked against it."""

import dataclasses

import torch
from torch import Tensor

from sdavs_model.architectures.ddeseg.config import DDESegConfig
from sdavs_model.weights.audio_bank import AudioBank, read_bank


def load_bank(config: DDESegConfig, *, embedding: int) -> Tensor:
    """The prototypes [classes, n, E] of a config.

    Without a file they are random, as the weights of a new model are; a training always has a file.

    Args:
        embedding: channels E of the audio encoder.

    Raises:
        ValueError: the file is missing or does not fit; names the field.
    """
    if config.bank is None:
        num_classes = len(config.bank_classes) or config.num_nearest
        return torch.randn(num_classes, config.num_prototypes, embedding)
    bank = read_bank(config.bank)
    check_bank(config, bank, embedding=embedding)
    return bank.prototypes


def check_bank(
    config: DDESegConfig, bank: AudioBank, *, embedding: int | None = None, prefix: str = ""
) -> None:
    """Check that a bank fits a model.

    Args:
        embedding: channels E of the audio encoder; None: not known.
        prefix: of the config's keys in errors.

    Raises:
        ValueError: it was made with another encoder, or has other classes, prototypes or channels.
    """
    record = bank.record
    num_classes, num_prototypes, channels = bank.prototypes.shape
    if record.audio_encoder != config.audio_encoder:
        raise ValueError(
            f"{prefix}bank: was made with audio_encoder={record.audio_encoder!r}, not {config.audio_encoder!r}"
        )
    if embedding is not None and channels != embedding:
        raise ValueError(
            f"{prefix}bank: has prototypes of {channels} channels; {config.audio_encoder} gives {embedding}"
        )
    if num_prototypes != config.num_prototypes:
        raise ValueError(
            f"{prefix}num_prototypes: {config.num_prototypes}, but the bank has {num_prototypes} of each class"
        )
    if config.bank_classes and config.bank_classes != record.classes:
        raise ValueError(
            f"{prefix}bank_classes: {', '.join(config.bank_classes)}; the bank has {', '.join(record.classes)}"
        )
    if num_classes < config.num_nearest:
        raise ValueError(
            f"{prefix}num_nearest: {config.num_nearest}, but the bank has {num_classes} classes; "
            f"allowed: 1 to {num_classes}"
        )


def with_bank(config: DDESegConfig, path: str, bank: AudioBank) -> DDESegConfig:
    """The config with the bank's file and the names of its classes."""
    return dataclasses.replace(config, bank=path, bank_classes=bank.record.classes)
