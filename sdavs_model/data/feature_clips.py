"""A cache of the frozen encoders' outputs: clips are encoded when first needed, then read from disk."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from sdavs_model.config import ModelConfig
from sdavs_model.data.augment.augmentation import SharedEpoch, draw_window
from sdavs_model.data.augment.config import Augment
from sdavs_model.encoders.audio import build_audio_encoder
from sdavs_model.encoders.features import EMBEDDINGS, MAPS
from sdavs_model.files import replacing
from sdavs_model.weights.read import configured_weights

T = TypeVar("T")

CACHE_VERSION = 2
"""Goes up with every change of what an item of `TrainingClips` or an encoder's output is. 2: batch normalisations are
folded."""


class FrozenEncoders:
    """The two encoders of a config with the weights that it names, to encode clips on the CPU.

    Args:
        config: has both encoders frozen, and says where their weights are.

    Attributes:
        digest: sha256 over all weights; features of encoders with other weights are other features.

    Raises:
        ValueError: a weights file is missing or does not fit.
    """

    def __init__(self, config: ModelConfig) -> None:
        # They come with timm, which takes seconds to import.
        from sdavs_model.encoders.batch_norm import fold_batch_norms
        from sdavs_model.encoders.visual import VisualEncoder

        assert config.freeze_backbone
        assert config.audio_encoder_is_frozen
        backbone_weights, audio_weights = configured_weights(config)
        self._visual = VisualEncoder(config=config, weights=backbone_weights).eval()
        self._audio = build_audio_encoder(config, audio_weights).eval()
        total = hashlib.sha256()
        for encoder in (self._visual, self._audio):
            for name, tensor in encoder.state_dict().items():
                total.update(name.encode())
                total.update(tensor.contiguous().numpy().tobytes())
        self.digest = total.hexdigest()
        # A fifth less time a frame; after the digest, which is over the weights as they are stored.
        fold_batch_norms(self._visual, torch.zeros(1, 3, config.image_size, config.image_size))

    @torch.inference_mode()
    def __call__(self, frames: Tensor, log_mel: Tensor) -> dict[str, Tensor]:
        """Encode one clip: frames [T, 3, H, W], log_mel [T, 1, 96, 64].

        Returns:
            "map_0" to "map_3" [T, C_i, H_i, W_i] and "embeddings" [T, E], float16: half of the disk space, and a
            rounding of 5e-4 that is far below the noise that training adds.
        """
        maps = dict(zip(MAPS, self._visual(frames), strict=True))
        encoded = maps | {EMBEDDINGS: self._audio(log_mel)}
        return {name: value.half().contiguous() for name, value in encoded.items()}


class FeatureClips(Dataset):
    """The items of a data set with "map_0" to "map_3" and "embeddings" in place of "frames" and "log_mel".

    Each clip is one file of a folder that is named after everything that decides its content, so the cache is never
    out of date, may be shared by runs and processes, and may be deleted at any time. A file that cannot be read is
    made again.

    Args:
        clips: items as of `TrainingClips`, without augmentation.
        encoders: encode the clips that are not in the cache.
        folder: of all cached features; gets a subfolder.
        made_of: what decides the items, apart from the encoders' weights, as JSON values: the data set's digest, the
            split, the preprocessing, the audio control.
        augment: of its settings only `window` applies; None uses whole clips.
        seed: of the window, together with the epoch (`set_epoch`) and the clip's index.
    """

    def __init__(
        self,
        clips: Any,
        *,
        encoders: FrozenEncoders,
        folder: Path,
        made_of: Mapping[str, Any],
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        self.clips = clips
        self._encoders = encoders
        content = json.dumps(
            {"version": CACHE_VERSION, "encoders": encoders.digest, **made_of}, sort_keys=True
        )
        self.folder = folder / hashlib.sha256(content.encode()).hexdigest()[:32]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._augment = augment
        self._epoch = SharedEpoch(seed)

    def __len__(self) -> int:
        return len(self.clips)

    def set_epoch(self, epoch: int, *, whole: bool = False) -> None:
        """Draw new windows from here on, or none if `whole`: the same (seed, epoch, index) gives the same item."""
        self._epoch.set(epoch, whole=whole)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._kept(index, self._item)

    def embeddings(self, index: int, seconds: slice) -> Tensor:
        """[T, E] float32: the sound of a run of a clip's seconds, whatever its window."""
        return self._kept(index, lambda file, _: file.get_slice(EMBEDDINGS)[seconds].float())

    def window(self, index: int, valid: np.ndarray) -> slice:
        """The seconds of a clip that are in its item; `valid` marks those with masks."""
        if self._augment is None or self._epoch.has_whole_clips:
            return slice(0, len(valid))
        return draw_window(len(valid), self._augment, self._epoch.rng(index), valid)

    def _kept(self, index: int, read: Callable[[Any, int], T]) -> T:
        """The result of `read` on a clip's file, which is written first if it is missing or unreadable."""
        path = self.folder / f"{index}.safetensors"
        try:
            with safe_open(path, framework="pt") as file:
                return read(file, index)
        except (OSError, SafetensorError):
            self._encode(path, index)
        with safe_open(path, framework="pt") as file:
            return read(file, index)

    def _encode(self, path: Path, index: int) -> None:
        item = dict(self.clips[index])
        encoded = self._encoders(item.pop("frames"), item.pop("log_mel"))
        tensors = {name: value for name, value in item.items() if isinstance(value, Tensor)}
        # Masks hold class indices, at most 255.
        tensors["masks"] = tensors["masks"].to(torch.uint8)
        others = {name: value for name, value in item.items() if name not in tensors}
        with replacing(path) as part:
            save_file(encoded | tensors, part, metadata={"item": json.dumps(others)})

    def _item(self, file: Any, index: int) -> dict[str, Any]:
        item: dict[str, Any] = json.loads(file.metadata()["item"])
        window = self.window(index, file.get_tensor("valid").numpy())
        for name in file.keys():  # noqa: SIM118 - not a dict
            tensor = file.get_slice(name)[window]
            item[name] = tensor.float() if tensor.dtype == torch.float16 else tensor
        item["masks"] = item["masks"].long()
        return item
