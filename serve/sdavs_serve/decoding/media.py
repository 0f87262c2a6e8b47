"""Uploads -> samples -> windows of clips. Reads front to back; memory holds one window, whatever the video's length.

Alignment: sample i covers the time from i / fps to (i + 1) / fps. Its picture is the one on screen in the
middle of that time and its sound is the second around the same moment (our choice: AVSBench takes the picture
of the last sixteenth of each second, which lags the sound by half a second; the middle is fair to both ends,
and equals the bundled data, whose frame i is shown for the whole second i). At fps 1 the seconds of sound follow each
other without gap or overlap, as in training.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sdavs_model.data.core.clip import Clip
from sdavs_model.data.core.images import squash_picture
from sdavs_serve.decoding.containers import (
    HEIC_ADVICE,
    Clock,
    Content,
    is_heic,
    open_media,
    open_sound,
    reading,
    sound_format,
    video_format,
)
from sdavs_serve.decoding.pictures import Moments, PictureTrack, decode_picture
from sdavs_serve.decoding.sound import PacketTrack, SoundTrack, gapless
from sdavs_serve.errors import MediaError

PADDING_S = 0.1
"""How much longer than the pictures a sound may be without the last picture being held: codecs pad to whole packets."""

END_SLACK_S = 0.5
"""How much longer than `max_seconds` a video may announce to be: sound is padded to whole packets."""

TRUNCATION_SLACK_S = 1.0
"""How much earlier than announced a video may end; muxers round, and the last frame's length is often unknown."""


OVERLAY_RATE = 48_000
"""Samples a second of an overlay's sound, which is stereo."""


class Limits(Protocol):
    """The keys of `ServeConfig` that decoding checks."""

    @property
    def max_seconds(self) -> float: ...
    @property
    def max_frames(self) -> int: ...
    @property
    def max_pixels(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One moment of an upload."""

    time_s: float
    picture: np.ndarray
    """[H, W, 3] uint8, RGB, upright; [S, S, 3] after `for_model`."""
    second: np.ndarray
    """[16000] float32, the second of sound around `time_s`."""
    size: tuple[int, int] | None = None
    """Height and width as displayed, of a picture that was squashed for the model."""
    displayed: np.ndarray | None = None
    """That picture before, if it is drawn on."""

    def for_model(self, side: int, *, keep: bool) -> "Sample":
        """The same with its picture squashed to [side, side, 3], as the preprocessing of the model does.

        Args:
            side: of the model's pictures.
            keep: also keep the picture as displayed.
        """
        return Sample(
            time_s=self.time_s,
            picture=squash_picture(self.picture, side),
            second=self.second,
            size=(self.picture.shape[0], self.picture.shape[1]),
            displayed=self.picture if keep else None,
        )


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Where the tracks of a video end, in seconds from the begin of the first one."""

    picture_end_s: float
    sound_end_s: float
    """0 if it has no sound of its own."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """The model's input: up to `num_frames` consecutive samples."""

    clip: Clip
    first: int
    """Index, in the whole upload, of the first sample that no earlier window covers."""
    samples: list[Sample]
    """The samples whose masks this window yields: the last ones of the clip. Those before them only give context."""


def windows(samples: Iterable[Sample], *, num_frames: int) -> Iterator[Window]:
    """Cut samples into clips of the length the model was trained with.

    The last window reaches back to be full, so that its frames have as much context as all others; an upload
    shorter than a window makes one shorter clip.
    """
    recent: deque[Sample] = deque(maxlen=num_frames)
    count, fresh = 0, 0
    for sample in samples:
        recent.append(sample)
        count, fresh = count + 1, fresh + 1
        if fresh == num_frames:
            yield _window(list(recent), first=count - fresh, fresh=fresh)
            fresh = 0
    if fresh:
        yield _window(list(recent), first=count - fresh, fresh=fresh)


def _window(samples: list[Sample], *, first: int, fresh: int) -> Window:
    clip = Clip(
        name=f"upload from {samples[0].time_s:.2f} s",
        frames=np.stack([sample.picture for sample in samples]),
        waveform=np.concatenate([sample.second for sample in samples]),
        size=samples[0].size,
    )
    return Window(clip=clip, first=first, samples=samples[-fresh:])


def decode_video(
    data: Content,
    *,
    fps: float,
    limits: Limits,
    sound: Content | None = None,
    on_end: Callable[[Timeline], None] | None = None,
    field: str = "video",
) -> Iterator[Sample]:
    """Sample a video (mp4, mov, webm, mkv, avi or ts), with its own sound or with that of another file.

    The file's own tracks decide the length, as in a player: the last picture is held while the sound continues, and
    silence follows a sound that is shorter. Another file's sound is cut or followed by silence.

    Two readers walk the same bytes, one for pictures and one for sound, so that a file that stores them far
    apart needs no more memory than one that interleaves them.

    Args:
        data: the video.
        fps: samples a second.
        limits: checked before and during decoding.
        sound: wav, flac, ogg, mp3 or a video, heard instead of the video's own sound, which it then need not have.
        on_end: called after the last sample.
        field: form field that the video came in, for messages.

    Raises:
        MediaError: not such a file, damaged, cut short, without sound, or beyond a limit.
    """
    kind = video_format(data)
    if kind is None:
        detail = (
            f"a HEIC picture; {HEIC_ADVICE}"
            if is_heic(data)
            else "not an mp4, mov, webm, mkv, avi or ts file"
        )
        raise MediaError("unsupported", detail, field=field)
    with ExitStack() as opened:
        with reading(field):
            pictures, sounds = (opened.enter_context(open_media(data, kind)) for _ in range(2))
        clock = Clock.of(pictures, data)
        _check_moment(clock.announced_end - END_SLACK_S, limits, field)
        track = PictureTrack(pictures, start=clock.start, max_pixels=limits.max_pixels, field=field)
        heard: SoundTrack
        length: SoundTrack | PacketTrack
        if sound is None:
            heard = length = SoundTrack(sounds, start=clock.start, field=field)
        else:
            heard = opened.enter_context(_sound_file(sound))
            length = PacketTrack(sounds, start=clock.start, field=field)
        size: tuple[int, ...] | None = None
        moments = Moments(fps=fps, announced_end=clock.announced_end)
        for index, picture in enumerate(_shown(track, length, moments)):
            # Checked at every frame: a file may announce less than it holds, or jump ahead by a year.
            time_s = moments[index]
            _check_moment(time_s, limits, field)
            if index >= limits.max_frames:
                raise _too_many_frames(limits, field)
            if size is not None and picture.shape != size:
                raise MediaError("unsupported", f"the picture changes size in frame {index}", field=field)
            size = picture.shape
            yield Sample(time_s=time_s, picture=picture, second=heard.second_around(time_s))
        sound_end = length.read_to_end(no_further_than=clock.announced_end or limits.max_seconds)
        # Either track may be shorter on purpose; a file that was cut short lacks the end of both.
        end = max(track.end, sound_end)
        if end < clock.announced_end - TRUNCATION_SLACK_S:
            detail = f"cut short: {end:.1f} of {clock.announced_end:.1f} s can be read"
            raise MediaError("corrupt", detail, field=field)
        if sound is None and not heard.num_decoded:
            detail = "the sound track is empty; SDAVS segments what is making the sound"
            raise MediaError("no_sound", detail, field=field)
        if on_end:
            on_end(Timeline(picture_end_s=track.end, sound_end_s=sound_end))


def _shown(track: PictureTrack, sound: SoundTrack | PacketTrack, moments: Moments) -> Iterator[np.ndarray]:
    """The track's pictures at the moments, then the last one for as long as the sound continues."""
    index = 0
    for picture in track.sampled(moments):
        yield picture
        index += 1
    last: np.ndarray | None = None
    while sound.lasts_beyond(max(moments[index], track.end + PADDING_S)):
        # Not the last one sampled: others may have followed it before the pictures ended.
        last = track.last_picture() if last is None else last
        yield last
        index += 1


def decode_pictures(
    pictures: Sequence[Content], sound: Content, *, fps: float, limits: Limits
) -> Iterator[Sample]:
    """Samples that come as one png, jpg or WebP each, in order, with a sound file (wav, flac, ogg, mp3 or a video's).

    Raises:
        MediaError: a file is of another kind, damaged or beyond a limit, or the pictures differ in size.
    """
    if len(pictures) > limits.max_frames:
        raise _too_many_frames(limits, "frames")
    _check_moment((len(pictures) - 0.5) / fps, limits, "frames")
    with _sound_file(sound) as track:
        size = None
        for index, data in enumerate(pictures):
            picture = decode_picture(data, max_pixels=limits.max_pixels, field=f"frames[{index}]")
            if size is not None and picture.shape != size:
                raise MediaError("invalid", "differs in size from frames[0]", field=f"frames[{index}]")
            size = picture.shape
            time_s = (index + 0.5) / fps
            yield Sample(time_s=time_s, picture=picture, second=track.second_around(time_s))


@contextmanager
def _sound_file(data: Content) -> Iterator[SoundTrack]:
    kind = sound_format(data)
    if kind is None:
        raise MediaError("unsupported", "not a wav, flac, ogg or mp3 file", field="audio")
    with ExitStack() as opened:
        with reading("audio"):
            container = opened.enter_context(open_sound(data, kind, field="audio"))
        track = SoundTrack(container, start=Clock.of(container).start, field="audio")
        yield track
        if not track.num_decoded:
            raise MediaError("no_sound", "the file holds no sound", field="audio")


def decode_stereo(data: Content, *, until: float) -> Iterator[np.ndarray]:
    """The sound of an upload for its overlay: blocks [2, N] float32 at `OVERLAY_RATE`, from 0 s on without gaps.

    Raises:
        MediaError: damaged.
    """
    kind = sound_format(data)
    assert kind is not None, "decoding has already read this sound"
    with reading("audio"), open_sound(data, kind, field="audio") as source:
        start = Clock.of(source).start
        left = round(until * OVERLAY_RATE)
        for block, _ in gapless(source, start=start, rate=OVERLAY_RATE, layout="stereo", field="audio"):
            yield block[:, :left]
            left -= block.shape[1]
            if left <= 0:
                return


def _check_moment(time_s: float, limits: Limits, field: str) -> None:
    if time_s > limits.max_seconds:
        detail = f"{math.ceil(time_s)} s long or longer; allowed: {limits.max_seconds:g} s"
        raise MediaError("too_large", detail, field=field, limit="max_seconds")


def _too_many_frames(limits: Limits, field: str) -> MediaError:
    detail = f"more than {limits.max_frames} frames; send a shorter clip or a lower fps"
    return MediaError("too_large", detail, field=field, limit="max_frames")
