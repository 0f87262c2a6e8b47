"""HTS-AT's log-mel examples: a second at 22,050 Hz, 64 mel bins, in decibels (DDESeg's settings).

HTS-AT was trained at 32 kHz, with a mel matrix for that rate. DDESeg feeds it sound at 22,050 Hz and keeps the matrix
of the checkpoint, so each of its bins lies at 0.69 of the frequency that it was made for. We do the same, because the
published model was trained so. All sound is read at 16 kHz, so nothing above 8 kHz is in these examples.
"""

import numpy as np
import torch
from torch import Tensor

from sdavs_model.data.core.audio import resample
from sdavs_model.data.core.clip import SAMPLE_RATE

RATE = 22_050
FFT_LENGTH = 1024
HOP_LENGTH = 256
NUM_MEL_BINS = 64
EXAMPLE_FRAMES = 1 + RATE // HOP_LENGTH  # 87
# The mel matrix of the checkpoint.
MATRIX_RATE = 32_000
MEL_MIN_HZ, MEL_MAX_HZ = 50.0, 14_000.0
LEAST_POWER = 1e-10


def decibel_mel(waveform: np.ndarray, num_seconds: int) -> Tensor:
    """[N] float32 at 16 kHz -> [T, 1, 87, 64] float32, one example a second; sound that ends early becomes silence."""
    sound = torch.zeros(num_seconds * RATE)
    available = torch.from_numpy(resample(waveform[: num_seconds * SAMPLE_RATE], SAMPLE_RATE, RATE))
    available = available[: len(sound)]
    sound[: len(available)] = available
    spectrum = torch.stft(
        sound.view(num_seconds, RATE),
        n_fft=FFT_LENGTH,
        hop_length=HOP_LENGTH,
        window=torch.hann_window(FFT_LENGTH, periodic=True),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )  # [T, 513, 87]
    power = spectrum.abs().square().transpose(1, 2)
    return 10 * torch.log10((power @ slaney_matrix().float()).clamp_min(LEAST_POWER))[:, None]


def slaney_matrix() -> Tensor:
    """[513, 64] float64: triangles of equal area on Slaney's mel scale, linear below 1 kHz and logarithmic above."""
    hertz = torch.linspace(0, MATRIX_RATE / 2, FFT_LENGTH // 2 + 1, dtype=torch.float64)
    ends = _to_mel(torch.tensor([MEL_MIN_HZ, MEL_MAX_HZ], dtype=torch.float64))
    edges = _to_hertz(torch.linspace(ends[0].item(), ends[1].item(), NUM_MEL_BINS + 2, dtype=torch.float64))
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (hertz[:, None] - left) / (centre - left)
    falling = (right - hertz[:, None]) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0) * 2 / (right - left)


_BREAK_HZ, _BREAK_MEL, _HZ_PER_MEL = 1000.0, 15.0, 200 / 3
_OCTAVES = float(np.log(6.4)) / 27  # of a mel above the break, as a logarithm


def _to_mel(hertz: Tensor) -> Tensor:
    above = _BREAK_MEL + torch.log(hertz.clamp_min(_BREAK_HZ) / _BREAK_HZ) / _OCTAVES
    return torch.where(hertz < _BREAK_HZ, hertz / _HZ_PER_MEL, above)


def _to_hertz(mel: Tensor) -> Tensor:
    above = _BREAK_HZ * torch.exp((mel.clamp_min(_BREAK_MEL) - _BREAK_MEL) * _OCTAVES)
    return torch.where(mel < _BREAK_MEL, mel * _HZ_PER_MEL, above)
