"""Banks of audio semantics: what they are made from, and that the same is made every time."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sdavs_model.architectures.ddeseg.config import DDESegConfig
from sdavs_model.data.core.clip import SAMPLE_RATE, ClipFiles
from sdavs_model.data.datasets import open_dataset
from sdavs_model.data.tools import audio_bank
from sdavs_model.data.tools.audio_bank import make_bank, single_sources
from sdavs_model.weights.audio_bank import read_bank, write_bank


def files(tmp_path, category: str, record: dict | None = None) -> ClipFiles:
    frames = tuple(tmp_path / f"{second}.png" for second in range(3))
    sources = None
    if record is not None:
        sources = tmp_path / "sources.json"
        sources.write_text(json.dumps(record))
    return ClipFiles(
        name="a", frames=frames, masks=(None,) * 3, wav=tmp_path / "a.wav", category=category, sources=sources
    )


def test_only_seconds_with_one_source_count(tmp_path):
    assert dict(single_sources(files(tmp_path, "dog"))) == {0: "dog", 1: "dog", 2: "dog"}
    assert dict(single_sources(files(tmp_path, "cat+dog"))) == {}
    assert dict(single_sources(files(tmp_path, ""))) == {}
    seconds = [
        {"sounding": ["cat"], "off_screen": ["dog"]},
        {"sounding": [], "off_screen": ["dog"]},
        {"sounding": [], "off_screen": []},
    ]
    assert dict(single_sources(files(tmp_path, "cat+dog", {"seconds": seconds}))) == {1: "dog"}


TONES = {"low": 200, "middle": 900, "high": 4000}


class Sines:
    """Made-up clips: each class is a tone of its own, at ten levels."""

    root, split, digest = "made-up", "train", "d" * 64

    def __init__(self, tmp_path, num_seconds: int = 10) -> None:
        frames = tuple(tmp_path / f"{second}.png" for second in range(num_seconds))
        self.files = [
            ClipFiles(
                name=name, frames=frames, masks=(None,) * num_seconds, wav=tmp_path / name, category=name
            )
            for name in TONES
        ]

    def __len__(self) -> int:
        return len(self.files)

    def waveform(self, index: int) -> np.ndarray:
        name, length = self.files[index].name, len(self.files[index].frames)
        time = np.arange(length * SAMPLE_RATE) / SAMPLE_RATE
        level = 0.05 * (1 + time.astype(int))
        return (level * np.sin(2 * np.pi * TONES[name] * time)).astype(np.float32)


@pytest.fixture
def listens(monkeypatch):
    """An encoder that gives the mean spectrum."""
    encoder = torch.nn.Identity()
    encoder.forward = lambda log_mel: log_mel.mean((1, 2))
    monkeypatch.setattr(audio_bank, "build_audio_encoder", lambda config, weights: encoder)


CONFIG = DDESegConfig(audio_encoder="yamnet")


@pytest.mark.usefixtures("listens")
def test_prototypes_are_means_of_clusters_of_their_class_and_come_out_the_same(tmp_path):
    bank = make_bank(Sines(tmp_path), CONFIG, num_prototypes=2)
    assert bank.record.classes == ("high", "low", "middle")
    assert bank.record.num_seconds == (10, 10, 10)
    assert bank.prototypes.shape == (3, 2, 64)
    assert bank.prototypes.dtype == torch.float32
    loudest = bank.prototypes.mean(1).argmax(1)
    assert loudest[1] < loudest[2] < loudest[0]
    again = make_bank(Sines(tmp_path), CONFIG, num_prototypes=2)
    assert again.digest == bank.digest
    one = make_bank(Sines(tmp_path), CONFIG, num_prototypes=1)
    assert one.digest != bank.digest
    write_bank(tmp_path / "banks" / "bank.safetensors", bank)
    read = read_bank(tmp_path / "banks" / "bank.safetensors")
    assert read.record == bank.record
    assert read.digest == bank.digest == read.describe()["sha256"]


@pytest.mark.usefixtures("listens")
def test_a_class_with_few_seconds_repeats_them(tmp_path):
    prototypes = make_bank(Sines(tmp_path, num_seconds=4), CONFIG, num_prototypes=5).prototypes
    assert torch.equal(prototypes[:, 4], prototypes[:, 0])
    assert len(prototypes[0].unique(dim=0)) == 4


@pytest.mark.usefixtures("listens")
def test_clips_that_do_not_say_what_they_hold_are_refused():
    nothing = SimpleNamespace(root="made-up", split="train", files=[])
    with pytest.raises(ValueError, match=r"made-up: split 'train' does not record any second"):
        make_bank(nothing, CONFIG, num_prototypes=2)


@pytest.mark.usefixtures("listens")
def test_a_composed_data_set_says_who_sounds_alone(realav):
    clips = open_dataset("auto", realav, "train")
    bank = make_bank(clips, CONFIG, num_prototypes=1)
    assert set(bank.record.classes) <= {name for each in clips.categories for name in each.split("+")}
    assert sum(bank.record.num_seconds) <= 5 * len(clips)
