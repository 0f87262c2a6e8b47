"""Batches of pictures under two sounds: the same for any number of workers, refused where they make no sense."""

import shutil

import pytest
import torch
from sdavs_platform.config.cli import load_config
from sdavs_platform.training.batches import Batches
from sdavs_platform.training.preflight import check_data

MODEL = {
    "backbone": "test_efficientnet",
    "width": 16,
    "freeze_backbone": True,
    "freeze_audio_encoder": True,
}
DATA = {"cache_features": True, "paired_sounds": True, "augment": {"window": 2}}


def epoch_of(config, *, world_size: int) -> list[list[dict]]:
    """The batches of epoch 3 of each worker."""
    parts = []
    for rank in range(world_size):
        torch.manual_seed(0)  # of the encoders, which are random here
        parts.append(list(Batches(config, rank=rank, world_size=world_size).epoch(3)))
    return parts


def test_any_number_of_workers_trains_on_the_same_pairs(make_config):
    config = make_config("pairs", data=DATA, model=MODEL)
    (alone,) = epoch_of(config, world_size=1)
    first, second = epoch_of(config, world_size=2)
    assert len(alone) == len(first) > 0
    for batch, left, right in zip(alone, first, second, strict=True):
        assert batch["name"] == left["name"] + right["name"]
        assert batch["name"][::2] == batch["name"][1::2]
        for key in ("map_0", "embeddings", "masks"):
            assert torch.equal(batch[key], torch.cat([left[key], right[key]])), key
        assert torch.equal(batch["map_3"][::2], batch["map_3"][1::2])
        assert not torch.equal(batch["embeddings"][::2], batch["embeddings"][1::2])


def test_the_last_epochs_train_on_whole_clips_in_batches_of_as_many_frames(make_config):
    training = {"epochs": 3, "batch_size": 5, "log_every": 1}
    data = {"whole_clips": 0.34, "augment": {"window": 2}}
    for cached in (False, True):
        config = make_config(
            "whole",
            data=data | {"cache_features": cached},
            model=MODEL,
            training=training,
            cluster={"num_workers": 1},
        )
        batches = Batches(config, rank=0, world_size=1)
        shapes = [{tuple(batch["masks"].shape[:2]) for batch in batches.epoch(epoch)} for epoch in (0, 2, 1)]
        assert shapes == [{(5, 2)}, {(2, 5)}, {(5, 2)}]


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"data.cache_features": False}, "needs data.cache_features=true"),
        ({"data.audio": "muted"}, "the same silence two masks"),
        ({"data.whole_clips": 0.5}, "no effect without data.augment.window"),
        ({"data.whole_clips": 0.5, "data.augment.window": 1}, "too few whole clips for 2 parts.* from 10"),
        ({"training.batch_size": 3, "cluster.num_workers": 1}, "even numbers"),
    ],
)
def test_pairs_that_make_no_sense_are_refused(changes, allowed):
    frozen = {f"model.{key}": value for key, value in MODEL.items()}
    wanted = {"data.cache_features": True, "data.paired_sounds": True, "training.batch_size": 4}
    with pytest.raises(ValueError, match=allowed):
        load_config(overrides=frozen | wanted | changes)


def test_data_without_visible_objects_are_refused_before_any_worker_starts(make_config, tmp_path):
    config = make_config("pairs", data=DATA, model=MODEL)
    copied = tmp_path / "copied"
    shutil.copytree(config.data.root, copied, ignore=shutil.ignore_patterns("visible_objects"))
    plain = config.model_copy(update={"data": config.data.model_copy(update={"root": str(copied)})})
    with pytest.raises(ValueError, match=r"paired_sounds: .* does not record all visible objects"):
        check_data(plain)
