"""The one place where raw frames, masks and sound become the model's tensors, in training and in serving."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from sdavs_model.config import PreprocessConfig
from sdavs_model.data.core.clip import IGNORED, SAMPLE_RATE
from sdavs_model.data.core.decibel_mel import decibel_mel
from sdavs_model.data.core.images import squash, squash_picture

# VGGish's published constants (tensorflow/models, research/audioset/vggish, vggish_params.py).
WINDOW_LENGTH = 400  # 25 ms
HOP_LENGTH = 160  # 10 ms
FFT_LENGTH = 512
NUM_MEL_BINS = 64
MEL_MIN_HZ, MEL_MAX_HZ = 125.0, 7500.0
VGGISH_LOG_OFFSET = 0.01
EXAMPLE_FRAMES = 96  # 0.96 s
EXAMPLE_SAMPLES = (EXAMPLE_FRAMES - 1) * HOP_LENGTH + WINDOW_LENGTH


class Preprocessor:
    """Makes the model's inputs. Frames are squashed to a square (AVSBench's test protocol), sound becomes
    log-mel examples, one a frame: VGGish's and YAMNet's, which differ in their log offset.

    Raises:
        ValueError: the configured sample rate is not VGGish's 16 kHz.
    """

    def __init__(self, config: PreprocessConfig) -> None:
        if config.sample_rate != SAMPLE_RATE:
            raise ValueError(
                f"preprocess.sample_rate: VGGish needs {SAMPLE_RATE} Hz, not {config.sample_rate}"
            )
        self.config = config
        self._mean = torch.tensor(config.mean).view(1, 3, 1, 1)
        self._std = torch.tensor(config.std).view(1, 3, 1, 1)
        self._window = torch.hann_window(WINDOW_LENGTH, periodic=True)
        self._mel = mel_matrix().float()

    def frames(self, images: Sequence[np.ndarray] | np.ndarray) -> torch.Tensor:
        """T pictures [H, W, 3] uint8 RGB -> [T, 3, S, S] float32, normalised; bilinear squash."""
        pixels = torch.from_numpy(self.squash(images)).permute(0, 3, 1, 2).contiguous()
        return pixels.float().div_(255).sub_(self._mean).div_(self._std)

    def squash(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """T pictures [H, W, 3] uint8 -> [T, S, S, 3] uint8; pictures of that size already stay as they are."""
        return np.stack([squash_picture(image, self.config.image_size) for image in images])

    def masks(self, masks: Sequence[np.ndarray] | np.ndarray) -> torch.Tensor:
        """T masks [H, W] of class indices (uint8) -> [T, S, S] int64; nearest neighbour."""
        side = self.config.image_size
        squashed = np.stack([squash(mask, side, Image.Resampling.NEAREST) for mask in masks])
        return torch.from_numpy(squashed).long()

    def log_mel(self, waveform: np.ndarray, num_frames: int) -> torch.Tensor:
        """[N] float32 at 16 kHz -> [T, 1, 96, 64] float32, one VGGish example a frame; [T, 1, 87, 64] for HTS-AT.

        Example i begins at second i ("second", our choice: paper III-A aligns frame i with second i) or at
        0.96 * i seconds ("official", AVSBench's files). Sound that ends early is continued with silence.
        """
        if self.config.example == "htsat":
            return decibel_mel(waveform, num_frames)
        hop = SAMPLE_RATE if self.config.audio_window == "second" else EXAMPLE_FRAMES * HOP_LENGTH
        needed = (num_frames - 1) * hop + EXAMPLE_SAMPLES
        # A copy, because the array may be read-only (numpy over the bytes of a file).
        sound = torch.zeros(needed)
        available = torch.tensor(waveform[:needed])
        sound[: len(available)] = available
        windows = sound.unfold(0, EXAMPLE_SAMPLES, hop).unfold(1, WINDOW_LENGTH, HOP_LENGTH)  # [T, 96, 400]
        magnitude = torch.fft.rfft(windows * self._window, n=FFT_LENGTH).abs()  # [T, 96, 257]
        return torch.log(magnitude @ self._mel + self.config.log_offset).unsqueeze(1)

    def log_mel_of_vggish(self, log_mel: torch.Tensor) -> torch.Tensor:
        """VGGish's log-mel examples, as AVSBench's files hold them, at this model's log offset; any shape."""
        if self.config.log_offset == VGGISH_LOG_OFFSET:
            return log_mel
        mel = (torch.exp(log_mel) - VGGISH_LOG_OFFSET).clamp_min(0)
        return torch.log(mel + self.config.log_offset)

    def silence(self) -> torch.Tensor:
        """The log-mel example [1, 96, 64], for HTS-AT [1, 87, 64], of a second without sound."""
        return self.log_mel(np.zeros(SAMPLE_RATE, np.float32), 1)[0]


def mel_matrix() -> torch.Tensor:
    """[257, 64] float64: VGGish's triangles on the HTK mel scale, 1127 ln(1 + f/700), DC bin zeroed."""
    hertz = torch.linspace(0, SAMPLE_RATE / 2, FFT_LENGTH // 2 + 1, dtype=torch.float64)
    low, high = _to_mel(torch.tensor([MEL_MIN_HZ, MEL_MAX_HZ], dtype=torch.float64))
    edges = torch.linspace(low.item(), high.item(), NUM_MEL_BINS + 2, dtype=torch.float64)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    mels = _to_mel(hertz).unsqueeze(1)  # [257, 1]
    rising = (mels - left) / (centre - left)
    falling = (right - mels) / (right - centre)
    weights = torch.minimum(rising, falling).clamp(min=0)
    weights[0] = 0
    return weights


def _to_mel(hertz: torch.Tensor) -> torch.Tensor:
    return 1127.0 * torch.log1p(hertz / 700.0)


def require_classes(masks: torch.Tensor, num_classes: int) -> None:
    """Raises ValueError if a mask holds a value outside the classes; 1 class means binary masks of 0 and 1."""
    highest = max(num_classes - 1, 1)
    counted = masks[masks != IGNORED] if num_classes > 1 else masks
    if counted.numel() and (int(masks.min()) < 0 or int(counted.max()) > highest):
        allowed = f"0 ... {highest}" + (f", {IGNORED}" if num_classes > 1 else "")
        raise ValueError(f"masks: values {int(masks.min())} ... {int(counted.max())}; allowed: {allowed}")
