"""Writes the masks that a registered model predicts for a data set, with the functions that the endpoint uses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sdavs_model import LoadedModel, load_artifact
from sdavs_model.data.core.clip import Clip
from sdavs_model.masks import masks_at_size
from sdavs_platform.evaluation.registered_model import open_for
from sdavs_platform.tracking.registry import fetch, resolve


def write_masks(
    model_uri: str,
    *,
    root: str,
    kind: str,
    splits: Sequence[str],
    folder: Path,
    device: str = "cpu",
    uri: str | None = None,
) -> None:
    """Write `SPLIT/CLIP/00000.png`, ... for every clip: 0 and 255 for a binary model, else class indices.

    With the same number of threads the files equal the endpoint's responses bit for bit.

    Args:
        model_uri: such as models:/sdavs@champion.
        root: folder of the data set.
        kind: type of the data set.
        uri: MLflow; None for the default.

    Raises:
        ValueError: as `evaluate_registered`.
    """
    loaded = load_artifact(
        fetch(model_uri, uri=uri), device=device, sha256=resolve(model_uri, uri=uri).sha256
    )
    scale = 255 if loaded.config.num_classes == 1 else 1
    for split in splits:
        clips = open_for(loaded, kind, Path(root), split).source
        for index in range(len(clips)):
            clip = clips.clip(index)
            target = folder / split / clip.name
            target.mkdir(parents=True, exist_ok=True)
            for number, mask in enumerate(clip_masks(loaded, clip, device=device)):
                Image.fromarray(mask * np.uint8(scale)).save(target / f"{number:05d}.png")


@torch.inference_mode()
def clip_masks(loaded: LoadedModel, clip: Clip, *, device: str = "cpu") -> np.ndarray:
    """The class of each pixel, in the size of the clip's frames: [T, H, W] uint8."""
    frames = loaded.preprocessor.frames(clip.frames)[None].to(device)
    log_mel = loaded.preprocessor.log_mel(clip.waveform, clip.num_frames)[None].to(device)
    logits = loaded.model(frames, log_mel)[0].float().cpu()
    return masks_at_size(logits, size=clip.frames.shape[1:3]).classes.numpy()
