"""Sound is decoded once, and what is kept is what would be decoded again."""

import os
import shutil

import numpy as np
import pytest
import torch
from layouts import write_sound

from sdavs_model import PreprocessConfig
from sdavs_model.data.core.audio import read_audio
from sdavs_model.data.core.audio_cache import SoundCache
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.data.training_clips import open_training_clips


@pytest.mark.parametrize(
    ("rate", "channels", "width"), [(8000, 1, 1), (44100, 2, 3), (48000, 2, 2), (48000, 1, 4)]
)
def test_sound_of_any_depth_rate_and_channels_is_kept_as_it_was_decoded(tmp_path, rate, channels, width):
    path = tmp_path / "sound.wav"
    write_sound(path, 1, rate=rate, channels=channels, width=width)
    sounds = SoundCache(tmp_path / "cache")
    first = sounds.waveform(path)
    assert first.shape == (16000,)
    np.testing.assert_array_equal(first, read_audio(path))
    (kept,) = (tmp_path / "cache").rglob("*.npy")
    before = kept.stat().st_mtime_ns
    np.testing.assert_array_equal(SoundCache(tmp_path / "cache").waveform(path), first)
    assert kept.stat().st_mtime_ns == before


def test_items_with_and_without_the_cache_are_equal_and_the_second_epoch_reads_no_sound(
    realav, preprocessor, tmp_path
):
    shutil.copytree(realav, tmp_path / "data")
    place = ("avsbench-ms3", tmp_path / "data", "val", preprocessor)
    plain = open_training_clips(*place)
    cached = open_training_clips(*place, sounds=SoundCache(tmp_path / "cache"))
    before = [plain[index] for index in range(2)]
    for _ in range(2):
        for index in range(2):
            item = cached[index]
            assert all(
                torch.equal(item[key], before[index][key]) for key in ("frames", "log_mel", "masks", "valid")
            )
        for files in cached.source.files:  # decoding would fail from here on; size and time are as they were
            stat = files.wav.stat()
            files.wav.write_bytes(bytes(stat.st_size))
            os.utime(files.wav, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_other_sound_and_other_settings_get_another_log_mel(realav, preprocessor, tmp_path):
    shutil.copytree(realav, tmp_path / "data")
    sounds = SoundCache(tmp_path / "cache")
    place = ("avsbench-ms3", tmp_path / "data", "val")
    clips = open_training_clips(*place, preprocessor, sounds=sounds)
    first = clips[0]["log_mel"]
    official = Preprocessor(PreprocessConfig(image_size=32, audio_window="official"))
    assert not torch.equal(open_training_clips(*place, official, sounds=sounds)[0]["log_mel"], first)
    shutil.copy(clips.source.files[1].wav, clips.source.files[0].wav)
    assert torch.equal(
        clips[0]["log_mel"], open_training_clips(*place, preprocessor, sounds=sounds)[1]["log_mel"]
    )


def test_a_damaged_entry_is_rebuilt(tmp_path):
    path = tmp_path / "sound.wav"
    write_sound(path, 1, rate=48000)
    sounds = SoundCache(tmp_path / "cache")
    first = sounds.waveform(path)
    (kept,) = (tmp_path / "cache").rglob("*.npy")
    kept.write_bytes(kept.read_bytes()[:100])
    np.testing.assert_array_equal(sounds.waveform(path), first)
    np.testing.assert_array_equal(np.load(kept), first)
