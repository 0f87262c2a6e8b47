"""What a client sent, in one nameless file on disk: memory does not grow with it, no path is the client's."""

from dataclasses import dataclass
from typing import IO, Literal

Kind = Literal["video", "pictures"]


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A video, or pictures and a sound file. Names of files are not kept."""

    file: IO[bytes]
    kind: Kind
    parts: list[tuple[int, int]]
    """Offset and length in the file: of the video or of each picture and, last, of the sound; a video needs none."""
    fps: float
    """Frames sampled a second."""
    threshold: float
    """Probability above which a pixel belongs to the mask, of a binary model."""
