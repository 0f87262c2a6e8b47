"""The files of a model artifact, read and verified without torch.

model.safetensors   all weights, fp32
golden.safetensors  clips and the logits that the model gave for them when it was saved
sdavs.json          the card: config (with the architecture's name), number of members if it is an ensemble,
                    preprocessing, classes, metrics, lineage, signature, sha256 of the other two
"""

import json
from pathlib import Path
from typing import Any

from sdavs_model.config import ModelConfig
from sdavs_model.files import sha256_of

FORMAT = 1
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "sdavs.json"
GOLDEN_FILE = "golden.safetensors"
PICKLE_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib")


def signature(config: ModelConfig) -> dict[str, Any]:
    """Data types and shapes of the model's inputs and outputs; -1 is any size (batch and time)."""
    S, K = config.image_size, config.num_classes
    return {
        "inputs": {
            "frames": {"dtype": "float32", "shape": [-1, -1, 3, S, S]},
            "log_mel": {"dtype": "float32", "shape": [-1, -1, *config.preprocess.log_mel_shape]},
        },
        "outputs": {"logits": {"dtype": "float32", "shape": [-1, -1, K, S, S]}} | _heard(config),
    }


def _heard(config: ModelConfig) -> dict[str, Any]:
    """Outputs of models that report which classes they hear, by second; k is not fixed here."""
    if not config.heard_classes:
        return {}
    return {
        "heard": {"dtype": "int64", "shape": [-1, -1, -1], "classes": list(config.heard_classes)},
        "seen": {"dtype": "float32", "shape": [-1, -1, -1]},
    }


def read_card(folder: str | Path) -> dict[str, Any]:
    """The content of `sdavs.json`.

    Raises:
        ValueError: it is missing, unreadable, or of another format.
    """
    path = Path(folder) / CARD_FILE
    try:
        card = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a readable model card: {error}") from error
    if card.get("format") != FORMAT:
        raise ValueError(f"{path}: format {card.get('format')!r}; this version reads format {FORMAT}")
    return card


def check_files(folder: Path, *, sha256: str | None = None) -> str:
    """Check that an artifact holds no pickle file and that its weights are the recorded ones.

    Args:
        sha256: the digest of the weights in a registry; checked as well if given.

    Returns:
        The digest of the weights.

    Raises:
        ValueError: a file is missing, refused or changed; the message names it.
    """
    pickles = sorted(p.name for p in folder.rglob("*") if p.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise ValueError(f"{folder / pickles[0]}: refused; a model artifact may not hold pickle files")
    digest = check_digest(folder, WEIGHTS_FILE)
    if sha256 is not None and sha256 != digest:
        raise ValueError(
            f"{folder / WEIGHTS_FILE}: sha256 {digest} is not {sha256}, which the registry records"
        )
    return digest


def check_digest(folder: Path, name: str) -> str:
    """The sha256 of one file of an artifact, after comparing it with the card's.

    Raises:
        ValueError: the file is missing, or was changed after it was written.
    """
    path, recorded = folder / name, read_card(folder)["sha256"].get(name)
    if recorded is None or not path.is_file():
        raise ValueError(f"{path}: missing from the model artifact")
    if (digest := sha256_of(path)) != recorded:
        raise ValueError(f"{path}: sha256 {digest} is not {recorded}, which {CARD_FILE} records")
    return digest
