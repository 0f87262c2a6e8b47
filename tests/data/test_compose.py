"""Composed clips are the same everywhere, true to their record, and have no shortcut past listening."""

import hashlib

import numpy as np
import pytest

from sdavs_model.data.realav import compose_audio as compose_sound
from sdavs_model.data.realav.asset_library import AssetLibrary, Pool
from sdavs_model.data.realav.compose import compose_clip
from sdavs_model.data.realav.scenes import Scene, Source, draw_scene
from sdavs_model.data.realav.stable_random import StableRandom

GOLDEN = "54cb6e1a1e76d5781f48ae5fa0808316f3095f0a71fe3acfef6a6f9c8ccd650c"


@pytest.fixture(scope="module")
def pool() -> Pool:
    return AssetLibrary().pool("train")


def digest(pool: Pool, seed: tuple[int, ...]) -> str:
    clip, scene = compose_clip(name="x", seed=seed, pool=pool, size=96, num_frames=5)
    content = clip.frames.tobytes() + clip.masks.tobytes() + clip.waveform.tobytes() + repr(scene).encode()
    return hashlib.sha256(content).hexdigest()


def test_a_seed_gives_the_same_clip_byte_for_byte_on_any_machine(pool):
    assert digest(pool, (0, 0, 4)) == GOLDEN
    assert digest(pool, (0, 0, 5)) != GOLDEN


def test_masks_follow_the_record_second_by_second(pool):
    for index in range(20):
        clip, scene = compose_clip(name="x", seed=(1, index), pool=pool, size=64, num_frames=5)
        for mask, second in zip(clip.masks, scene.record()["seconds"], strict=True):
            assert set(np.unique(mask)) <= {0, 1}
            assert mask.any() == bool(second["sounding"])


def test_a_source_is_silent_outside_its_seconds_and_audible_for_most_of_them(pool):
    seconds = (False, True, True, False, True)
    for index, category in enumerate(pool.categories * 3):
        runs = ((False, True, True, False, False), (False, False, False, False, True))
        scene = Scene(
            sources=(
                Source(category=category, seen=True, seconds=runs[0]),
                Source(category=category, seen=False, seconds=runs[1]),
            ),
            noise=None,
        )
        samples, _ = compose_sound.render(StableRandom((index,)), pool, scene, 5)
        sound = samples.astype(np.float64).reshape(5, 100, 160)
        level = np.mean(sound[list(seconds)] ** 2)
        for second, sounds in zip(sound, seconds, strict=True):
            audible = int(np.sum(np.mean(second**2, axis=1) > level / 1600))
            assert (audible >= 70) if sounds else not second.any(), (category, audible)


def test_scenes_close_the_shortcuts(pool):
    scenes = [draw_scene(StableRandom((7, index)), pool, 5) for index in range(400)]
    records = [scene.record() for scene in scenes]
    with_silent = sum(
        set(r["seen"]) > set(r["heard"]) or not set(r["seen"]) <= set(r["heard"]) for r in records
    )
    off_screen = sum(not set(r["heard"]) <= set(r["seen"]) for r in records)
    changing = sum(len({tuple(s["sounding"]) for s in r["seconds"]}) > 1 for r in records)
    empty = sum(not s["sounding"] for r in records for s in r["seconds"])
    several = sum(max(len(s["sounding"]) for s in r["seconds"]) > 1 for r in records)
    assert with_silent > 0.7 * 400
    assert 0.1 * 400 < off_screen < 0.3 * 400
    assert changing > 0.3 * 400
    assert 0.02 * 2000 < empty < 0.1 * 2000
    assert several > 0.25 * 400
    for record in records:
        assert record["heard"], "no clip is silent throughout"
        assert len(record["seen"]) == len(set(record["seen"])), "a category is seen once"
        for second in record["seconds"]:
            assert not set(second["off_screen"]) & set(record["seen"])
    # Front or back does not tell who sounds.
    front_sounds = [
        any(scene.sources[len(r["seen"]) - 1].seconds) for scene, r in zip(scenes, records, strict=True)
    ]
    back_sounds = [any(scene.sources[0].seconds) for scene in scenes]
    assert abs(sum(front_sounds) - sum(back_sounds)) < 0.1 * 400


def test_any_length_works_from_one_second_on(pool):
    for num_frames in (1, 2, 10):
        clip, _ = compose_clip(name="x", seed=(3, num_frames), pool=pool, size=32, num_frames=num_frames)
        assert clip.frames.shape == (num_frames, 32, 32, 3)
        assert clip.waveform.shape == (num_frames * 16000,)


def test_a_size_too_small_is_refused(pool):
    with pytest.raises(ValueError, match="size of 32 or more"):
        compose_clip(name="x", seed=(0,), pool=pool, size=8, num_frames=5)
