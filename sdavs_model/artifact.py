"""The registered model: one folder without pickle, loadable with `sdavs_model` alone.

model.safetensors   all weights, fp32
golden.safetensors  clips and what the model answered to them when it was saved
sdavs.json          config, preprocessing, classes, metrics, lineage, signature, sha256 of the other two
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_model, save_model

from sdavs_model.architectures.sdavs.model import SDAVS, build_model
from sdavs_model.config import PreprocessConfig, SDAVSConfig, check_keys
from sdavs_model.files import sha256_of
from sdavs_model.golden import GOLDEN_FILE, Golden, parse_golden, record_golden, write_golden

if TYPE_CHECKING:
    from sdavs_model.data.core.clip import Clip
    from sdavs_model.data.core.preprocess import Preprocessor

FORMAT = 1
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "sdavs.json"
PICKLE_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib")


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A verified model in eval mode with all that is needed to use it."""

    model: SDAVS
    config: SDAVSConfig
    preprocessor: Preprocessor
    classes: list[str]
    metrics: dict[str, Any]
    lineage: dict[str, Any]
    """Where it comes from: run_id, data_digest, git_commit and what else training recorded."""
    sha256: str


def save_artifact(
    folder: str | Path,
    *,
    model: SDAVS,
    classes: list[str],
    metrics: dict[str, Any],
    lineage: dict[str, Any],
    golden_clips: Sequence[Clip] = (),
) -> dict[str, Any]:
    """Write the artifact.

    Args:
        folder: created if need be; an artifact in it is replaced.
        classes: names of the mask values from 0 on, background first.
        metrics: what the model scored, by split.
        lineage: run_id, data_digest, git_commit and the like.
        golden_clips: answered now, and checked by whoever loads the model; none: a drawn clip.

    Returns:
        The content of `sdavs.json`.

    Raises:
        ValueError: the number of class names does not fit the model.
    """
    from sdavs_model.data.core.preprocess import Preprocessor

    config = model.config
    expected = max(config.num_classes, 2)
    if len(classes) != expected:
        raise ValueError(f"classes: {len(classes)} names for {expected} mask values")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / WEIGHTS_FILE))
    write_golden(folder, record_golden(model, Preprocessor(config.preprocess), golden_clips))
    # Paths of initial weights mean nothing on another machine; the weights themselves are in the file.
    portable = config.to_dict() | {"pretrained": False, "backbone_weights": None, "vggish_weights": None}
    card = {
        "format": FORMAT,
        "config": portable,
        "frozen_vggish": model.audio_encoder.frozen,
        "preprocess": asdict(config.preprocess),
        "classes": classes,
        "metrics": metrics,
        "lineage": lineage,
        "signature": signature(config),
        "sha256": {name: sha256_of(folder / name) for name in (WEIGHTS_FILE, GOLDEN_FILE)},
    }
    (folder / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n")
    return card


def load_artifact(
    folder: str | Path, *, device: str | torch.device = "cpu", sha256: str | None = None
) -> LoadedModel:
    """Read an artifact back after checking it.

    Args:
        folder: what `save_artifact` wrote.
        device: where the model goes.
        sha256: the digest that a registry promises for the weights; checked as well if given.

    Raises:
        ValueError: a file is missing, holds pickle, was changed after it was written, or does not fit.
    """
    from sdavs_model.data.core.preprocess import Preprocessor

    folder = Path(folder)
    card = read_card(folder)
    weights, actual = folder / WEIGHTS_FILE, check_files(folder, sha256=sha256)
    config = SDAVSConfig.from_dict(card["config"])
    check_keys(PreprocessConfig, card["preprocess"], prefix="preprocess.")
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in card["preprocess"].items()
    }
    stored = PreprocessConfig(**values)
    model = build_model(config)
    try:
        load_model(model, weights, device="cpu")
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{weights}: does not fit the config in {CARD_FILE}: {error}") from error
    if card["frozen_vggish"]:
        model.audio_encoder.frozen = True
        model.audio_encoder.requires_grad_(False)
    return LoadedModel(
        model=model.to(device).eval(),
        config=config,
        preprocessor=Preprocessor(stored),
        classes=card["classes"],
        metrics=card["metrics"],
        lineage=card["lineage"],
        sha256=actual,
    )


def check_files(folder: Path, *, sha256: str | None = None) -> str:
    """Make sure that an artifact holds no pickle and the weights that were promised; returns their digest.

    Raises:
        ValueError: names the file that is missing, refused or changed.
    """
    pickles = sorted(p.name for p in folder.rglob("*") if p.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise ValueError(f"{folder / pickles[0]}: refused; a model artifact holds no pickle file")
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise ValueError(f"{weights}: missing")
    actual = sha256_of(weights)
    promises = (read_card(folder)["sha256"].get(WEIGHTS_FILE), CARD_FILE), (sha256, "the registry")
    for promised, by in promises:
        if promised is not None and promised != actual:
            raise ValueError(f"{weights}: sha256 {actual} is not {promised}, which {by} promises")
    return actual


def read_golden(folder: str | Path) -> Golden:
    """The golden clips of an artifact.

    Raises:
        ValueError: the artifact has none, or they were changed after it was written.
    """
    path = Path(folder) / GOLDEN_FILE
    promised = read_card(folder)["sha256"].get(GOLDEN_FILE)
    if promised is None or not path.is_file():
        raise ValueError(f"{path}: missing; register the model anew")
    content = path.read_bytes()
    if (actual := hashlib.sha256(content).hexdigest()) != promised:
        raise ValueError(f"{path}: sha256 {actual} is not {promised}, which {CARD_FILE} promises")
    return parse_golden(content)


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


def signature(config: SDAVSConfig) -> dict[str, Any]:
    """Shapes and types of the model's tensors; -1 is any size."""
    S, K = config.image_size, config.num_classes
    return {
        "inputs": {
            "frames": {"dtype": "float32", "shape": [-1, -1, 3, S, S]},
            "log_mel": {"dtype": "float32", "shape": [-1, -1, 1, 96, 64]},
        },
        "outputs": {"logits": {"dtype": "float32", "shape": [-1, -1, K, S, S]}},
    }
