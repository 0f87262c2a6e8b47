"""Clips whose encoders are frozen are encoded once, and a model learns from what was kept as it does from the clips."""

from dataclasses import asdict

import pytest
import torch
from frozen import CONFIG

from sdavs_model import PreprocessConfig, build_model
from sdavs_model.data.augment.config import Augment
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.data.feature_clips import FeatureClips, FrozenEncoders
from sdavs_model.data.training_clips import collate_clips, open_training_clips
from sdavs_model.training_step import predict


class Counted(torch.utils.data.Dataset):
    """Counts how often each clip is read from its files."""

    def __init__(self, clips) -> None:
        self.clips, self.num_reads = clips, 0

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index):
        self.num_reads += 1
        return self.clips[index]


@pytest.fixture(scope="module")
def clips(realav):
    return open_training_clips("avsbench-ms3", realav, "train", Preprocessor(CONFIG.preprocess))


@pytest.fixture(scope="module")
def encoders():
    torch.manual_seed(0)
    return FrozenEncoders(CONFIG)


def cached(clips, encoders, folder, **options) -> FeatureClips:
    return FeatureClips(clips, encoders=encoders, folder=folder, made_of={"split": "train"}, **options)


def test_a_clip_is_encoded_once_and_then_read_from_disk(clips, encoders, tmp_path):
    counted = Counted(clips)
    first = cached(counted, encoders, tmp_path)[1]
    again = cached(counted, encoders, tmp_path)[1]
    assert counted.num_reads == 1
    assert first.keys() == again.keys()
    own = clips[1]
    assert again["name"] == own["name"]
    for key in ("masks", "valid", "present"):
        assert torch.equal(again[key], own[key])
        assert again[key].dtype == own[key].dtype
    assert torch.equal(first["map_2"], again["map_2"])


def test_a_model_predicts_the_same_from_kept_features_as_from_the_clips(clips, tmp_path):
    torch.manual_seed(0)
    model = build_model(CONFIG).eval()
    torch.manual_seed(0)
    encoders = FrozenEncoders(CONFIG)
    encoders._visual, encoders._audio = model.visual_encoder, model.audio_encoder
    kept = collate_clips([cached(clips, encoders, tmp_path)[index] for index in (0, 2)])
    plain = collate_clips([clips[index] for index in (0, 2)])
    with torch.inference_mode():
        expected, got = predict(model, plain), predict(model, kept)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() < 0.01 * expected.std()


def test_a_window_is_a_part_of_the_clip_that_seed_epoch_and_index_decide(clips, encoders, tmp_path):
    whole = cached(clips, encoders, tmp_path)[0]
    windows = cached(clips, encoders, tmp_path, augment=Augment(window=2), seed=3)
    starts = set()
    for epoch in range(12):
        windows.set_epoch(epoch)
        item = windows[0]
        assert torch.equal(item["embeddings"], windows[0]["embeddings"])
        (start,) = [s for s in range(4) if torch.equal(item["map_0"], whole["map_0"][s : s + 2])]
        assert torch.equal(item["masks"], whole["masks"][start : start + 2])
        starts.add(start)
    assert len(starts) > 1


def test_other_weights_or_settings_never_find_each_others_features(clips, encoders, tmp_path):
    torch.manual_seed(1)
    others = FrozenEncoders(CONFIG)
    folders = {
        cached(clips, encoders, tmp_path).folder,
        cached(clips, others, tmp_path).folder,
        FeatureClips(clips, encoders=encoders, folder=tmp_path, made_of={"split": "val"}).folder,
        FeatureClips(clips, encoders=encoders, folder=tmp_path, made_of=asdict(PreprocessConfig())).folder,
    }
    assert len(folders) == 4


def test_a_damaged_file_is_made_again(clips, encoders, tmp_path):
    kept = cached(clips, encoders, tmp_path)
    whole = kept[0]
    file = kept.folder / "0.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert torch.equal(kept[0]["map_3"], whole["map_3"])
