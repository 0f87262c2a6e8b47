"""A clip: T frames, one per second, the T seconds of sound that belong to them, and masks of the sounding objects.

`ClipFiles` is a clip on disk, `Clip` a clip in memory.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sdavs_model.files import as_on_disk

SAMPLE_RATE = 16_000
"""Samples per second of every waveform in the product; VGGish's constant."""

IGNORED = 255
"""The value of mask pixels that count neither in the loss nor in a score."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip as raw numbers. Frame i belongs to second i of the sound, strictly (paper III-A).

    Raises:
        ValueError: a field has the wrong shape or type; the message names the clip and the field.
    """

    name: str
    """Its name in the data set, or the file it came from."""
    frames: np.ndarray
    """[T, H, W, 3] uint8, RGB."""
    waveform: np.ndarray
    """[T * 16000] float32 in [-1, 1], mono, 16 kHz."""
    masks: np.ndarray | None = None
    """[T, H, W] uint8, 0 is background, 1..K are classes, 255 is left out of loss and score; None where the ground
    truth is unknown."""
    valid: np.ndarray | None = None
    """[T] bool, which frames have a mask of their own; None if all have."""
    objects: np.ndarray | None = None
    """[T, H, W] uint8 of a composed clip: 0 is background, k the k-th visible object, whether it sounds or not; None
    where that is unknown."""
    size: tuple[int, int] | None = None
    """Height and width of the frames before they were squashed for the model; None if they were not."""

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[-1] != 3 or self.frames.dtype != np.uint8:
            raise ValueError(f"{self.name}: frames must be [T, H, W, 3] uint8, not {_describe(self.frames)}")
        if self.waveform.shape != (self.num_frames * SAMPLE_RATE,) or self.waveform.dtype != np.float32:
            raise ValueError(
                f"{self.name}: {self.num_frames} frames need {self.num_frames} s of sound "
                f"([{self.num_frames * SAMPLE_RATE}] float32), not {_describe(self.waveform)}"
            )
        for field, maps in (("masks", self.masks), ("objects", self.objects)):
            if maps is not None and (maps.shape != self.frames.shape[:3] or maps.dtype != np.uint8):
                raise ValueError(
                    f"{self.name}: {field} must be {list(self.frames.shape[:3])} uint8, not {_describe(maps)}"
                )
        if self.valid is not None and (
            self.valid.shape != (self.num_frames,) or self.valid.dtype != np.bool_
        ):
            raise ValueError(
                f"{self.name}: valid must be [{self.num_frames}] bool, not {_describe(self.valid)}"
            )

    @property
    def num_frames(self) -> int:
        """T: frames, and seconds."""
        return self.frames.shape[0]


@dataclass(frozen=True, kw_only=True)
class ClipFiles:
    """The files of one clip, whatever the layout of its data set."""

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
    """The categories that are heard, joined by "+" in alphabetical order; "" if the data set does not record them."""
    more: tuple[Path, ...] = ()
    """Other files that decide what the clip is, such as a second recording."""
    sources: Path | None = None
    """A JSON file with the sources that are heard and seen; composed data sets have one for each clip."""
    objects: Path | None = None
    """A picture of all visible objects, as `read_objects` reads it; composed data sets have one for each clip."""

    @property
    def paths(self) -> list[Path]:
        """Every file that a training step may read; `objects` follows from the masks' source and is left out."""
        sound = self.wav if self.log_mel is None or self.wav.is_file() else self.log_mel
        masks = [mask for mask in self.masks if mask is not None]
        return [*self.frames, *masks, sound, *self.more, *([self.sources] if self.sources else [])]

    def as_on_disk(self) -> "ClipFiles":
        """The same with all paths as the disk spells them; see `sdavs_model.files.as_on_disk`."""
        return replace(
            self,
            frames=tuple(as_on_disk(path) for path in self.frames),
            masks=tuple(path and as_on_disk(path) for path in self.masks),
            wav=as_on_disk(self.wav),
            log_mel=self.log_mel and as_on_disk(self.log_mel),
            more=tuple(as_on_disk(path) for path in self.more),
        )

    @property
    def valid(self) -> np.ndarray:
        """[T] bool, which frames have a mask."""
        return np.array([mask is not None for mask in self.masks])


def _describe(array: np.ndarray) -> str:
    return f"{list(array.shape)} {array.dtype}"
