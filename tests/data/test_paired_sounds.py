"""Every picture under two sounds, each with the masks that belong to it."""

import shutil

import numpy as np
import pytest
import torch
from frozen import CONFIG

from sdavs_model.data.augment.config import Augment
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.data.feature_clips import FeatureClips, FrozenEncoders
from sdavs_model.data.paired_sounds import PairedSounds
from sdavs_model.data.training_clips import open_training_clips


@pytest.fixture(scope="module")
def clips(realav):
    return open_training_clips("avsbench-ms3", realav, "train", Preprocessor(CONFIG.preprocess))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def encoders():
    return FrozenEncoders(CONFIG)


@pytest.fixture
def make_pairs(clips, encoders, folder):
    def make(seed: int = 3, window: int = 2) -> PairedSounds:
        encoded = FeatureClips(
            clips, encoders=encoders, folder=folder, made_of={}, augment=Augment(window=window), seed=seed
        )
        return PairedSounds(encoded, clips, seed=seed)

    return make


def test_a_second_sound_marks_the_visible_objects_that_are_heard_in_it(make_pairs, clips):
    pairs = make_pairs(window=1)
    source, num_clips = clips.source, len(clips)
    num_marked = num_empty = 0
    sounds = {
        (clip, second): pairs.clips.embeddings(clip, slice(second, second + 1))
        for clip in range(num_clips)
        for second in range(5)
    }
    for epoch in range(8):
        pairs.set_epoch(epoch)
        for index in range(num_clips):
            own, other = pairs[index], pairs[num_clips + index]
            assert torch.equal(own["map_0"], other["map_0"])
            # Sounds alike: one source in several seconds of a clip, or silence.
            heard = [
                source.heard_by_second[clip][second]
                for (clip, second), sound in sounds.items()
                if torch.equal(sound, other["embeddings"])
            ]
            start = pairs.clips.window(index, np.ones(5, np.bool_)).start
            objects = clips.objects(index)[start]
            expected = [
                sum(
                    (objects == value).long()
                    for value, name in enumerate(source.object_categories[index], 1)
                    if name in names
                )
                for names in heard
            ]
            assert any(
                torch.equal(other["masks"][0], torch.as_tensor(mask).expand(64, 64)) for mask in expected
            )
            num_marked += bool(other["masks"].any())
            num_empty += not other["masks"].any()
    assert num_marked > num_empty > 0


def test_the_own_sound_keeps_the_own_masks(make_pairs, clips):
    pairs = make_pairs()
    for index in range(len(clips)):
        start = pairs.clips.window(index, np.ones(5, np.bool_)).start
        assert torch.equal(pairs[index]["masks"], clips[index]["masks"][start : start + 2])
        # The visible objects that sound are what the data set's own masks mark.
        objects = clips.objects(index)
        for second, names in enumerate(clips.source.heard_by_second[index]):
            seen = [v for v, name in enumerate(clips.source.object_categories[index], 1) if name in names]
            assert torch.equal(
                torch.isin(objects[second], torch.tensor(seen)), clips[index]["masks"][second] == 1
            )


def test_seed_epoch_and_index_decide_and_the_order_of_reading_does_not(make_pairs, clips):
    first, second = make_pairs(), make_pairs()
    indices = range(len(clips), 2 * len(clips))
    forwards = [first[index]["embeddings"] for index in indices]
    backwards = [second[index]["embeddings"] for index in reversed(indices)][::-1]
    assert all(map(torch.equal, forwards, backwards))
    first.set_epoch(1)
    assert not all(map(torch.equal, forwards, [first[index]["embeddings"] for index in indices]))


def test_data_that_do_not_record_their_objects_are_refused(realav, encoders, tmp_path):
    shutil.copytree(realav, tmp_path / "plain", ignore=shutil.ignore_patterns("visible_objects"))
    plain = open_training_clips("avsbench-ms3", tmp_path / "plain", "train", Preprocessor(CONFIG.preprocess))
    encoded = FeatureClips(plain, encoders=encoders, folder=tmp_path, made_of={})
    with pytest.raises(ValueError, match=r"paired_sounds: .*plain.* does not record all visible objects"):
        PairedSounds(encoded, plain)
