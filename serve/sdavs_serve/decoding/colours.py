"""Video frames -> 8 bit RGB as a display shows them: BT.601 or BT.709 if the file does not specify it, HDR
tone-mapped."""

import functools

import av
import numpy as np
from av.video.reformatter import Colorspace, ColorTrc

UNSPECIFIED = 2
"""FFmpeg's AVCOL_SPC_UNSPECIFIED: the file does not specify its colour space."""

HD_HEIGHT = 720
"""Untagged pictures from this height on are BT.709."""

PQ, HLG = int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67)
"""The two transfer functions of HDR (ITU-R BT.2100)."""

WHITE_NITS = 203.0
"""Luminance of HDR's reference white, which becomes SDR's white (ITU-R BT.2408, table 1)."""

HLG_PEAK_NITS = 1000.0
"""Of the display that HLG is shown on (BT.2100's nominal one, whose system gamma is 1.2)."""

SDR_GAMMA = 2.4
"""Of the display that SDR is made for (ITU-R BT.1886)."""

KNEE = 0.8
"""Up to here tone mapping changes nothing; above it highlights are compressed towards white. Our choice: skin and
paper, at most half of reference white, keep their values."""

BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
"""Linear RGB (ITU-R BT.2087, 2.2)."""

BT2020_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)

ROWS_AT_ONCE = 64
"""Tone mapping computes in floats; a 4K picture at once would take 400 MB."""


def as_rgb(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    """[H, W, 3] uint8.

    Args:
        frame: as decoded.
        size: width and height of the result.
    """
    if frame.color_trc in (PQ, HLG):
        return _tone_mapped(_reformat(frame, size, "rgb48le", None), int(frame.color_trc))
    untagged = frame.colorspace == UNSPECIFIED and not frame.format.is_rgb
    # FFmpeg reads untagged pictures as BT.601. Players, and the cameras that leave the tag out, mean BT.709 in HD.
    colours = Colorspace.ITU709 if untagged and frame.height >= HD_HEIGHT else None
    return _reformat(frame, size, "rgb24", colours)


def _reformat(
    frame: av.VideoFrame, size: tuple[int, int], form: str, colours: Colorspace | None
) -> np.ndarray:
    # One thread: by default every frame starts and stops some of its own, which in the end fails in a confined process.
    return frame.reformat(
        width=size[0], height=size[1], format=form, src_colorspace=colours, threads=1
    ).to_ndarray()


def _tone_mapped(coded: np.ndarray, transfer: int) -> np.ndarray:
    """[H, W, 3] uint16 in PQ or HLG, BT.2020 -> uint8 in SDR, BT.709."""
    shown = np.empty(coded.shape, np.uint8)
    light_of = _linear_light(transfer)
    for row in range(0, len(coded), ROWS_AT_ONCE):
        light = light_of[coded[row : row + ROWS_AT_ONCE]]  # 1 is reference white
        if transfer == HLG:
            # From the scene's light to the display's (BT.2100, table 5).
            scene = (light @ BT2020_LUMINANCE)[..., None]
            light *= (HLG_PEAK_NITS / WHITE_NITS) * np.maximum(scene, 1e-6) ** 0.2
        light = np.maximum(light @ BT2020_TO_BT709.T, 0)
        highest = np.maximum(light.max(-1, keepdims=True), 1e-6)
        over = np.maximum(highest - KNEE, 0) / (1 - KNEE)
        # Continues the line with its slope and approaches 1; all channels by one factor, so that the hue stays.
        mapped = np.minimum(highest, KNEE) + (1 - KNEE) * over / (1 + over)
        light *= mapped / highest
        shown[row : row + ROWS_AT_ONCE] = np.round(255 * light ** (1 / SDR_GAMMA))
    return shown


@functools.cache
def _linear_light(transfer: int) -> np.ndarray:
    """[65536] float32: the linear light of every code, by BT.2100's tables 4 and 5.

    PQ: the display's, relative to reference white. HLG: the scene's, from 0 to 1.
    """
    code = np.arange(65536) / 65535
    if transfer == PQ:
        power = code ** (1 / 78.84375)
        light = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
        return (10_000 / WHITE_NITS * light ** (1 / 0.1593017578125)).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)
