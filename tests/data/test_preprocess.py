"""Frames and sound become exactly what the published encoders were trained on."""

import numpy as np
import torch

from sdavs_model import PreprocessConfig
from sdavs_model.data.core.preprocess import Preprocessor


def published_log_mel(sound: np.ndarray) -> np.ndarray:
    """VGGish's examples in numpy, written from its published constants: [examples, 96, 64]."""
    starts = range(0, len(sound) - 400 + 1, 160)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    magnitude = np.stack([np.abs(np.fft.rfft(sound[s : s + 400] * window, 512)) for s in starts])

    def mel(hertz: np.ndarray | float) -> np.ndarray:
        return 1127 * np.log(1 + np.asarray(hertz) / 700)

    edges = np.linspace(mel(125), mel(7500), 66)
    bins = mel(np.arange(257) * 16000 / 512)
    matrix = np.zeros((257, 64))
    for band in range(64):
        low, centre, high = edges[band : band + 3]
        matrix[:, band] = np.maximum(
            0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
        )
    matrix[0] = 0
    frames = np.log(magnitude @ matrix + 0.01)
    count = len(frames) // 96
    return frames[: count * 96].reshape(count, 96, 64)


def some_sound(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    time = np.arange(int(seconds * 16000)) / 16000
    tone = np.sin(2 * np.pi * 440 * time) + 0.1 * rng.standard_normal(len(time))
    return (0.3 * tone).astype(np.float32)


def test_official_windows_equal_vggish_on_five_seconds():
    sound = some_sound(5)
    ours = Preprocessor(PreprocessConfig(audio_window="official")).log_mel(sound, 5)
    theirs = published_log_mel(sound.astype(np.float64))
    assert theirs.shape == (5, 96, 64)
    assert ours.shape == (5, 1, 96, 64)
    np.testing.assert_allclose(ours[:, 0].numpy(), theirs, atol=2e-4)


def test_aligned_windows_are_the_first_example_of_each_second():
    sound = some_sound(3)
    ours = Preprocessor(PreprocessConfig(audio_window="second")).log_mel(sound, 3)
    for second in range(3):
        theirs = published_log_mel(sound[second * 16000 : (second + 1) * 16000].astype(np.float64))[0]
        np.testing.assert_allclose(ours[second, 0].numpy(), theirs, atol=2e-4)


def test_sound_that_ends_early_is_continued_with_silence():
    log_mel = Preprocessor(PreprocessConfig()).log_mel(some_sound(1), 2)
    assert torch.allclose(log_mel[1], torch.tensor(0.01).log())


def test_frames_are_squashed_and_normalised_and_masks_keep_their_values():
    preprocessor = Preprocessor(PreprocessConfig(image_size=32))
    frames = preprocessor.frames([np.full((20, 50, 3), 255, np.uint8)] * 2)
    assert frames.shape == (2, 3, 32, 32)
    expected = (1 - torch.tensor(preprocessor.config.mean)) / torch.tensor(preprocessor.config.std)
    assert torch.allclose(frames[1, :, 7, 7], expected)
    mask = np.zeros((20, 50), np.uint8)
    mask[:10] = 7
    masks = preprocessor.masks([mask])
    assert masks.dtype == torch.int64
    assert masks.unique().tolist() == [0, 7]
    assert (masks[0, :16] == 7).all()
