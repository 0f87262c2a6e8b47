"""The files of one clip, whatever data set it is of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Video:
    """The files of one clip."""

    name: str
    """Unique in its split."""
    frames: tuple[Path, ...]
    """One picture a second."""
    masks: tuple[Path | None, ...]
    """One a frame; None where the frame has no annotation."""
    wav: Path
    """The sound, in any format that `read_audio` reads."""
    log_mel: Path | None = None
    """AVSBench's precomputed log-mel, read where there is no sound file."""
    category: str = ""
    """The categories that are heard, joined by "+" in alphabetical order; "" where the data set does not say."""
    more: tuple[Path, ...] = ()
    """Other files that decide what the clip is, such as a second recording."""
    sources: Path | None = None
    """A JSON beside the data that says who is heard and who is seen; composed data sets have it."""

    @property
    def files(self) -> list[Path]:
        """Every file that a training step may read."""
        sound = self.wav if self.log_mel is None or self.wav.is_file() else self.log_mel
        masks = [mask for mask in self.masks if mask is not None]
        return [*self.frames, *masks, sound, *self.more, *([self.sources] if self.sources else [])]

    @property
    def valid(self) -> np.ndarray:
        """[T] bool, which frames have a mask."""
        return np.array([mask is not None for mask in self.masks])
