"""A clip of the data set as a video file, and the endpoint's response to it as a picture."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from sdavs_model.data.benchmarks.avsbench_object import AVSBenchMS3
from sdavs_model.data.core.clip import Clip

FRAMES_PER_SECOND = 4
"""A clip has one frame per second; each is repeated so that players show the video smoothly."""

SAMPLE_RATE = 16_000
LABEL_HEIGHT = 14


def choose_clip(data: Path, *, split: str) -> Clip:
    """The first clip of a split whose mask changes in time and is never large, so that no constant mask is right.

    Raises:
        ValueError: the data set cannot be read.
    """
    clips = AVSBenchMS3(root=data, split=split)
    for index in range(len(clips)):
        clip = clips.clip(index)
        assert clip.masks is not None
        areas = (clip.masks > 0).mean((1, 2))
        if areas.min() == 0 and 0.05 < areas.max() < 0.4:
            return clip
    return clips.clip(0)


def write_video(clip: Clip, path: Path) -> None:
    """Write the clip as mp4 (H.264, AAC), one second per frame."""
    height, width = clip.frames.shape[1:3]
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "12"})
        video.width, video.height, video.pix_fmt = width - width % 2, height - height % 2, "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for index in range(len(clip.frames) * FRAMES_PER_SECOND):
            picture = np.ascontiguousarray(
                clip.frames[index // FRAMES_PER_SECOND, : video.height, : video.width]
            )
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FRAMES_PER_SECOND)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        samples = (np.clip(clip.waveform, -1, 1) * 32767).astype(np.int16)[None]  # [1, N]
        sound = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        sound.sample_rate, sound.pts = SAMPLE_RATE, 0
        resampler = av.AudioResampler("fltp", "mono", SAMPLE_RATE, frame_size=1024)
        for part in [*resampler.resample(sound), *resampler.resample(None)]:
            container.mux(audio.encode(part))
        container.mux(audio.encode(None))


def write_sheet(clip: Clip, answer: Path, path: Path, *, scale: int = 2) -> None:
    """Draw four rows with a column per second: frame, sound, ground truth, and the endpoint's masks.

    Args:
        answer: folder that `jobs/segment.py` wrote: mask-0.png, mask-1.png, ...
        scale: pixels drawn per pixel of the clip.
    """
    assert clip.masks is not None
    given = [np.asarray(Image.open(answer / f"mask-{i}.png")) for i in range(len(clip.frames))]
    given = [_fit(mask, clip.frames[0].shape[:2]) for mask in given]
    rows = {
        "frame": list(clip.frames),
        "sound": _waveform_tiles(clip),
        "ground truth": [_overlay(f, m > 0) for f, m in zip(clip.frames, clip.masks, strict=True)],
        "prediction": [_overlay(f, m > 0) for f, m in zip(clip.frames, given, strict=True)],
    }
    bands = []
    for label, tiles in rows.items():
        band = Image.fromarray(np.concatenate(tiles, axis=1))
        band = band.resize((band.width * scale, band.height * scale), Image.Resampling.BICUBIC)
        titled = Image.new("RGB", (band.width, band.height + LABEL_HEIGHT), "white")
        titled.paste(band, (0, LABEL_HEIGHT))
        ImageDraw.Draw(titled).text((3, 1), label, fill="black")
        bands.append(np.asarray(titled))
    Image.fromarray(np.concatenate(bands)).save(path)


def answer_ms(answer: Path) -> float:
    """Milliseconds that the endpoint took, by its own clock."""
    return json.loads((answer / "answer.json").read_text())["timings_ms"]["total"]


def _waveform_tiles(clip: Clip) -> list[np.ndarray]:
    """[H / 3, W, 3] for each second, on the same scale for the whole clip."""
    height, width = clip.frames.shape[1] // 3, clip.frames.shape[2]
    peak = max(float(np.abs(clip.waveform).max()), 1e-6)
    tiles = []
    for second in np.split(clip.waveform[: len(clip.frames) * SAMPLE_RATE], len(clip.frames)):
        levels = np.array([np.abs(part).max() for part in np.array_split(second, width)]) / peak  # [W]
        distance = np.abs(np.linspace(-1, 1, height))[:, None]  # [H / 3, 1]
        inside = distance <= np.maximum(levels, 1 / height)[None]
        tiles.append(np.where(inside[..., None], (40, 90, 160), (240, 240, 240)).astype(np.uint8))
    return tiles


def _overlay(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Red where the mask is, the rest darkened so that small masks are visible."""
    red = 0.45 * frame + 0.55 * np.array([255, 40, 40])
    return np.where(mask[..., None], red, 0.6 * frame).astype(np.uint8)


def _fit(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask resized to the clip: video codecs drop an odd last row or column."""
    return np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))
