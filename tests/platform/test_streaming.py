"""Clips in shards: the same clips as in the folder, fetched when they are needed, and no more kept than allowed."""

import json
import tarfile
from pathlib import Path

import pytest
from sdavs_platform.storage.datasets import local_copy, open_split
from sdavs_platform.storage.shards import INDEX, write_shards
from sdavs_platform.storage.streaming import Ahead, open_stream
from sdavs_platform.training.batches import Batches
from waiting import wait_until

from sdavs_model.data.datasets import open_splits


@pytest.fixture(scope="module")
def shards(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of the platform's tests in shards of three or four clips."""
    folder = tmp_path_factory.mktemp("shards")
    write_shards(data, str(folder), shard_bytes=1_200_000)
    return folder


def test_the_shards_unpack_to_the_data_set_and_their_index_has_the_folders_digests(shards, data, tmp_path):
    index = json.loads((shards / INDEX).read_text())
    assert len(index["shards"]) > 1
    for name in ["tables.tar", *index["shards"]]:
        with tarfile.open(shards / name) as tar:
            tar.extractall(tmp_path, filter="data")
    found = {split: clips.digest for split, clips in open_splits(tmp_path).items()}
    assert found == {split: clips.digest for split, clips in open_splits(data).items()} == index["digests"]


def test_nothing_but_the_tables_is_read_before_the_first_clip_and_a_clip_is_one_request(shards, tmp_path):
    stream = open_stream(str(shards), cache=tmp_path)
    clips = open_splits(stream.folder)["train"]
    assert stream.fetched_bytes == 0
    clips.hold = stream.hold
    clips.clip(3)
    assert stream.fetched_bytes == stream.index.records[stream._needed(clips.files[3])[0]].size
    before = stream.fetched_bytes
    clips.clip(3)
    assert stream.fetched_bytes == before


def test_a_training_gets_the_batches_of_the_folder_in_the_same_order_from_any_step_on(shards, make_config):
    config = make_config("streamed", training={"batch_size": 2})
    folder = Batches(config, rank=0, world_size=1)
    streamed = config.model_copy(update={"data": config.data.model_copy(update={"root": str(shards)})})
    stream = Batches(streamed, rank=0, world_size=1)
    assert stream.clips.source.digest == folder.clips.source.digest
    for epoch, first in ((0, 0), (1, 2)):
        pairs = zip(
            folder.epoch(epoch, first_batch=first), stream.epoch(epoch, first_batch=first), strict=True
        )
        for ours, theirs in pairs:
            assert ours["name"] == theirs["name"]
            assert (ours["frames"] == theirs["frames"]).all()
            assert (ours["log_mel"] == theirs["log_mel"]).all()
            assert (ours["masks"] == theirs["masks"]).all()


def test_a_part_of_a_streamed_split_has_a_digest_of_its_own(shards, make_config):
    data = {"root": str(shards), "num_folds": 2, "fold": 0, "fold_by": "clips"}
    config = make_config("folds", data=data)
    kept, held_out = (open_split(config, split).source for split in ("train", "val"))
    assert len(kept) == len(held_out) == 4
    assert {files.name for files in kept.files}.isdisjoint(files.name for files in held_out.files)
    assert kept.digest != held_out.digest


def test_no_more_is_kept_than_allowed_and_what_was_removed_is_fetched_again(shards, tmp_path):
    largest = max(record.size for record in open_stream(str(shards), cache=tmp_path / "any").index.records)
    stream = open_stream(str(shards), cache=tmp_path, max_bytes=3 * largest)
    clips = open_splits(stream.folder)["train"]
    clips.hold = stream.hold
    whole = [clips.clip(index) for index in range(len(clips))]
    kept = sum(path.stat().st_size for path in stream.folder.rglob("*.*") if path.suffix in (".png", ".wav"))
    assert 0 < kept <= 4 * largest
    before = stream.fetched_bytes
    assert (clips.clip(0).frames == whole[0].frames).all()
    assert stream.fetched_bytes > before


def test_clips_that_are_fetched_ahead_are_there_when_they_are_needed(shards, tmp_path):
    stream = open_stream(str(shards), cache=tmp_path)
    clips = open_splits(stream.folder)["val"]
    clips.hold = stream.hold
    ahead = Ahead()
    for index in range(len(clips)):
        ahead.fetch(clips, index)
    wanted = sum(stream.index.records[number].size for f in clips.files for number in stream._needed(f))
    wait_until(lambda: stream.fetched_bytes == wanted, what="the clips to be fetched")


def test_a_shard_that_differs_from_the_index_is_refused_by_name(shards, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in shards.iterdir():
        content = bytearray(path.read_bytes())
        if path.name == "shard-00000.tar":
            content[1000] ^= 1
        (copy / path.name).write_bytes(content)
    stream = open_stream(str(copy), cache=tmp_path)
    clips = open_splits(stream.folder)["train"]
    clips.hold = stream.hold
    with pytest.raises(ValueError, match=r"data.root: .*shard-00000.tar differs from sdavs_shards.json"):
        [clips.clip(index) for index in range(len(clips))]


def test_what_is_not_streamed_gets_a_whole_copy(shards, data, tmp_path):
    copy = local_copy(shards, cache=tmp_path)
    found = {split: clips.digest for split, clips in open_splits(copy).items()}
    assert found == {split: clips.digest for split, clips in open_splits(data).items()}
