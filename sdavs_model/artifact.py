"""The registered model (artifact): saved to and loaded from a folder without pickle (`artifact_files` lists its
files)."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model

from sdavs_model.architectures import build_model, config_from_dict
from sdavs_model.architectures.base import SegmentationModel
from sdavs_model.artifact_files import (
    CARD_FILE,
    FORMAT,
    GOLDEN_FILE,
    WEIGHTS_FILE,
    check_digest,
    check_files,
    read_card,
    signature,
)
from sdavs_model.config import ModelConfig, PreprocessConfig, check_keys
from sdavs_model.data.core.clip import Clip
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.ensemble import Ensemble
from sdavs_model.files import sha256_of
from sdavs_model.golden import Golden, parse_golden, record_golden, write_golden


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A verified model in eval mode, with all that is needed to use it."""

    model: SegmentationModel
    config: ModelConfig
    preprocessor: Preprocessor
    classes: list[str]
    metrics: dict[str, Any]
    lineage: dict[str, Any]
    """Where the model comes from: run_id, data_digest, git_commit and whatever else training recorded."""
    sha256: str
    """Digest of the weights file."""


def save_artifact(
    folder: str | Path,
    *,
    model: SegmentationModel,
    classes: list[str],
    metrics: dict[str, Any],
    lineage: dict[str, Any],
    golden_clips: Sequence[Clip] = (),
) -> dict[str, Any]:
    """Write a model artifact.

    Args:
        folder: created if it does not exist; an artifact in it is replaced.
        classes: names of the mask values from 0 on, background first.
        metrics: the model's scores, by split.
        lineage: run_id, data_digest, git_commit and the like.
        golden_clips: stored with the model's logits, which whoever loads the model can compare; if empty, a
            synthetic clip is stored.

    Returns:
        The content of `sdavs.json`.

    Raises:
        ValueError: the number of class names does not fit the model.
    """
    config = model.config
    expected = max(config.num_classes, 2)
    if len(classes) != expected:
        raise ValueError(f"classes: {len(classes)} names for {expected} mask values")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / WEIGHTS_FILE))
    write_golden(folder, record_golden(model, Preprocessor(config.preprocess), golden_clips))
    card = {
        "format": FORMAT,
        "config": config.without_weights().to_dict(),
        "members": len(model.members) if isinstance(model, Ensemble) else 1,
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
    """Load an artifact after verifying it.

    Args:
        folder: written by `save_artifact`.
        device: the device to load the model to.
        sha256: the digest of the weights in a registry; checked as well if given.

    Raises:
        ValueError: a file is missing, is a pickle, was changed after it was written, or does not fit the config.
    """
    folder = Path(folder)
    card = read_card(folder)
    weights, digest = folder / WEIGHTS_FILE, check_files(folder, sha256=sha256)
    config = _config_of(card)
    check_keys(PreprocessConfig, card["preprocess"], prefix="preprocess.")
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in card["preprocess"].items()
    }
    stored = PreprocessConfig(**values)
    number = card.get("members", 1)
    model = build_model(config) if number == 1 else Ensemble([build_model(config) for _ in range(number)])
    try:
        load_model(model, weights, device="cpu")
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{weights}: does not fit the config in {CARD_FILE}: {error}") from error
    return LoadedModel(
        model=model.to(device).eval(),
        config=config,
        preprocessor=Preprocessor(stored),
        classes=card["classes"],
        metrics=card["metrics"],
        lineage=card["lineage"],
        sha256=digest,
    )


def read_golden(folder: str | Path) -> Golden:
    """The golden clips of an artifact.

    Raises:
        ValueError: the artifact has none, or they were changed after it was written.
    """
    folder = Path(folder)
    check_digest(folder, GOLDEN_FILE)
    return parse_golden((folder / GOLDEN_FILE).read_bytes())


def _config_of(card: dict[str, Any]) -> ModelConfig:
    """The model's config; cards of earlier versions note outside of it whether VGGish was frozen.

    Raises:
        ValueError: this version does not have such a model; names the field.
    """
    frozen = {"freeze_audio_encoder": True} if card.get("frozen_vggish") else {}
    try:
        return config_from_dict(card["config"] | frozen)
    except ValueError as error:
        raise ValueError(f"{CARD_FILE}: config.{error}") from error
