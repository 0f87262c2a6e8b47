"""A bank of audio semantics: for each class a few prototypes of what it sounds like alone.

DDESeg derives its audio tokens with one. It is a file of its own until a model is built with it; from then on it is a
buffer of the model, in every checkpoint and artifact.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sdavs_model.files import replacing

PROTOTYPES = "prototypes"
RECORD = "bank"
DIGEST = "sha256"


@dataclass(frozen=True, kw_only=True)
class BankRecord:
    """The origin of a bank: classes, encoder, data, clustering."""

    classes: tuple[str, ...]
    """Names of the classes, in the order of the prototypes."""
    num_seconds: tuple[int, ...]
    """Seconds of sound by class."""
    audio_encoder: str
    """`model.audio_encoder` that made the embeddings."""
    encoder_digest: str
    """sha256 of that encoder's weights (`encoder_digest`)."""
    data_digest: str
    """Digest of the split, as `jobs/prepare_data.py digest` prints it."""
    split: str
    seed: int
    """Seed of the clustering."""


@dataclass(frozen=True, kw_only=True)
class AudioBank:
    """Prototypes and where they come from."""

    prototypes: Tensor
    """[classes, n, E] float32."""
    record: BankRecord

    @property
    def digest(self) -> str:
        """sha256 (hex) over classes and prototypes."""
        total = hashlib.sha256("\n".join(self.record.classes).encode())
        total.update(self.prototypes.contiguous().numpy().tobytes())
        return total.hexdigest()

    def describe(self) -> dict[str, Any]:
        """The record and the digest as JSON values, for lineage."""
        return {"sha256": self.digest, "prototypes": list(self.prototypes.shape), **asdict(self.record)}


def write_bank(path: Path, bank: AudioBank) -> None:
    """Write a bank as one safetensors file with its record as metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        save_file(
            {PROTOTYPES: bank.prototypes.contiguous()},
            part,
            metadata={RECORD: json.dumps(asdict(bank.record)), DIGEST: bank.digest},
        )
        part.chmod(0o644)  # safetensors makes files that only their owner may read


def read_bank(path: str | Path, *, field: str = "bank") -> AudioBank:
    """Read a bank.

    Args:
        path: a file that `write_bank` wrote.
        field: the config key to name in errors.

    Raises:
        ValueError: the file is missing, is no bank, or was changed after it was written.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"{field}: no such file: {path}; allowed: a file that `python jobs/prepare_data.py bank` wrote"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            values = json.loads(metadata[RECORD])
            prototypes = file.get_tensor(PROTOTYPES)
        given: dict[str, Any] = {
            f.name: tuple(v) if isinstance(v := values[f.name], list) else v for f in fields(BankRecord)
        }
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{field}: {path} is not a bank of audio semantics: {error}") from error
    record = BankRecord(**given)
    if prototypes.ndim != 3 or len(prototypes) != len(record.classes):
        raise ValueError(
            f"{field}: {path} has prototypes {list(prototypes.shape)} for {len(record.classes)} classes"
        )
    bank = AudioBank(prototypes=prototypes, record=record)
    # Banks of earlier versions do not have their digest.
    if (written := metadata.get(DIGEST)) is not None and written != bank.digest:
        raise ValueError(
            f"{field}: {path} was changed after it was written: sha256 {bank.digest} instead of {written}"
        )
    return bank


def encoder_digest(encoder: torch.nn.Module) -> str:
    """sha256 (hex) over the names and values of an encoder's weights."""
    total = hashlib.sha256()
    for name, tensor in encoder.state_dict().items():
        total.update(name.encode())
        total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()
