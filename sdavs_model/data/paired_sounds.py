"""The same picture under two sounds in one batch: a model that does not listen is wrong under one of them."""

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from sdavs_model.data.augment.augmentation import SharedEpoch
from sdavs_model.data.core.clip_set import ClipSet
from sdavs_model.data.feature_clips import FeatureClips
from sdavs_model.data.training_clips import TrainingClips
from sdavs_model.encoders.features import EMBEDDINGS

HEARD_PERCENT = 70
"""How often the second sound has something in it that is seen. In the other cases it is off screen, and the mask is
empty. Our choice: with half of all sounds off screen an empty mask would be a good guess."""

OWN, OTHER = 0, 1
"""Under which of its two sounds an item shows its picture."""


class PairedSounds(Dataset):
    """Each clip twice: with its own sound, and with sound of another clip and the masks that belong to it.

    Items 0 to N - 1 are the N clips, items N to 2 N - 1 the same pictures under another sound: that of a clip in which
    one of the visible objects is heard, each equally often and whether it is silent in the picture's own clip or not;
    or, in 3 of 10 cases, one of categories that are not seen. The same (seed, epoch, clip) gives the same item.

    Both sounds are encoded already, so the second one costs no more than reading it.

    Args:
        clips: the encoded clips of a split.
        pictures: the same clips, which say what is seen and heard in them, and where.
        seed: of the second sound, together with the epoch (`set_epoch`) and the clip's index.

    Raises:
        ValueError: the data set does not record the visible objects and what is heard, or its masks have classes.
    """

    def __init__(self, clips: FeatureClips, pictures: TrainingClips, *, seed: int = 0) -> None:
        source = pictures.source
        require_objects(source)
        self.clips = clips
        self._pictures = pictures
        self._valid = [files.valid for files in source.files]
        self._epoch = SharedEpoch(seed)
        names = sorted({name for clip in source.object_categories for name in clip}.union(*_seconds(source)))
        number = {name: index for index, name in enumerate(names)}
        self._objects = [[number[name] for name in clip] for clip in source.object_categories]
        self._heard = np.zeros((len(source), source.num_frames, len(names)), np.bool_)
        for index, clip in enumerate(source.heard_by_second):
            for second, now in enumerate(clip):
                self._heard[index, second, [number[name] for name in now]] = True

    def __len__(self) -> int:
        return 2 * len(self.clips)

    def set_epoch(self, epoch: int, *, whole: bool = False) -> None:
        """Draw new windows and sounds from here on; as `FeatureClips.set_epoch`."""
        self._epoch.set(epoch, whole=whole)
        self.clips.set_epoch(epoch, whole=whole)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sound, index = divmod(index, len(self.clips))
        item = self.clips[index]
        if sound == OWN:
            return item
        seconds = self.clips.window(index, self._valid[index])
        length = seconds.stop - seconds.start
        other, start = self._draw(index, length)
        item[EMBEDDINGS] = self.clips.embeddings(other, slice(start, start + length))
        heard = self._heard[other, start : start + length][:, self._objects[index]]  # [T, objects]
        marked = torch.from_numpy(np.pad(heard, ((0, 0), (1, 0)))).long()  # of the background, too
        objects = self._pictures.objects(index)[seconds]
        item["masks"] = marked.gather(1, objects.flatten(1)).view_as(objects)
        return item

    def _draw(self, index: int, length: int) -> tuple[int, int]:
        """Another clip, and the second at which its sound begins."""
        rng = self._epoch.rng(index, OTHER)
        starts = self._heard.shape[1] - length + 1
        heard = np.stack([self._heard[:, start : start + length].any(1) for start in range(starts)], 1)
        heard[index] = False
        seen = self._objects[index]
        audible = [name for name in seen if heard[..., name].any()]
        off_screen = heard.any(-1) & ~heard[..., seen].any(-1)
        hears_object = bool(audible) and int(rng.integers(100)) < HEARD_PERCENT
        if hears_object or not off_screen.any():
            if not audible:
                raise ValueError(
                    f"paired_sounds: no other clip has a sound for clip {self._pictures.source.files[index].name!r}"
                )
            found = np.argwhere(heard[..., audible[int(rng.integers(len(audible)))]])
        else:
            found = np.argwhere(off_screen)
        clip, start = found[int(rng.integers(len(found)))]
        return int(clip), int(start)


def require_objects(source: ClipSet) -> None:
    """Refuse a data set whose pictures cannot be shown under another sound.

    Raises:
        ValueError: as `PairedSounds`.
    """
    if source.num_classes > 1:
        raise ValueError(
            f"paired_sounds: {source.root} has masks of {source.num_classes} classes; allowed: 1"
        )
    if not all(files.objects for files in source.files) or not all(source.object_categories):
        raise ValueError(
            f"paired_sounds: {source.root} does not record all visible objects of its clips and their categories; "
            "RealAV prepared by this version does"
        )


def _seconds(source: ClipSet) -> list[set[str]]:
    return [now for clip in source.heard_by_second for now in clip]
