"""AVSBench-Robust's figures, the deaf oracle and intervals over assets against values worked out by hand."""

import numpy as np
import pytest
import torch

from sdavs_model.metrics import ObjectMetrics
from sdavs_model.metrics.bootstrap import asset_interval
from sdavs_model.metrics.listening import (
    NEGATIVES,
    POSITIVE,
    SoundMetrics,
    combined_scores,
    deaf_oracle_logits,
)


def halves() -> tuple[torch.Tensor, torch.Tensor]:
    """Two frames of 4 x 4 pixels: the upper half is one object, the left half another."""
    upper, left = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    upper[:, :2] = left[:, :, :2] = 1
    return upper, left


def test_robust_scores_of_a_model_that_hears_all_but_off_screen_sounds():
    upper, left = halves()
    metrics = {sound: SoundMetrics() for sound in (POSITIVE, *NEGATIVES)}
    predicted = {"right": upper, "silence": torch.zeros_like(upper), "noise": torch.zeros_like(upper)}
    for sound in (POSITIVE, *NEGATIVES):
        metrics[sound].update(deaf_oracle_logits(predicted.get(sound, left)), upper)
    scores = {sound: scored.compute() for sound, scored in metrics.items()}
    assert scores["right"] == pytest.approx({"miou": 1, "fscore": 1, "fpr": 0.5})
    assert scores["silence"]["miou"] == scores["silence"]["fpr"] == 0
    # Off screen: 4 of 12 pixels of the union; precision and recall are 1 / 2, and so is F. The lowest threshold, 0,
    # marks all 16 pixels: P = 1 / 2, R = 1, F = 1.3 * 0.5 / (0.3 * 0.5 + 1).
    lowest = 1.3 * 0.5 / 1.15
    assert scores["off-screen"] == pytest.approx({"miou": 1 / 3, "fscore": lowest, "fpr": 0.5})
    assert scores["silence"]["fscore"] == pytest.approx(lowest)
    negative = (0 + 0 + 1 / 3) / 3
    assert combined_scores(scores) == pytest.approx(
        {
            "g_miou": 2 * 1 * (1 - negative) / (1 + 1 - negative),
            "g_fscore": 2 * 1 * (1 - lowest) / (1 + 1 - lowest),
            "g_fpr": 0.5 / 3,
        }
    )


@pytest.mark.parametrize("score", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_a_deaf_model_reaches_at_most_half_of_the_combined_score(score):
    scores = {sound: {"miou": score, "fscore": score, "fpr": 0.2} for sound in (POSITIVE, *NEGATIVES)}
    combined = combined_scores(scores)
    assert combined["g_miou"] == pytest.approx(2 * score * (1 - score))
    assert combined["g_fpr"] == pytest.approx(0.2)


@pytest.mark.parametrize("mode", ["official", "corrected"])
def test_scores_under_one_sound_are_those_of_the_protocol_and_keep_j_of_each_clip(mode):
    upper, left = halves()
    clips = {"a": (upper, upper), "b": (left, upper), "c": (left, torch.zeros_like(left))}
    whole, parts, plain = (
        SoundMetrics(mode=mode),
        [SoundMetrics(mode=mode) for _ in clips],
        ObjectMetrics(mode=mode),
    )
    for part, (name, (predicted, target)) in zip(parts, clips.items(), strict=True):
        clip = {"name": name, "masks": target.long(), "valid": torch.tensor([True, False])}
        for metrics in (whole, part, plain):
            metrics.add_clip(deaf_oracle_logits(predicted)[:, None], clip)
    # Nothing sounds in c and half of it is marked: officially half of it is right, corrected none.
    assert whole.clip_miou == pytest.approx({"a": 1, "b": 1 / 3, "c": 0.5 if mode == "official" else 0})
    assert whole.compute() == pytest.approx(plain.compute() | {"fpr": 0.5})
    assert whole.compute()["miou"] == pytest.approx(sum(whole.clip_miou.values()) / 3)
    parts[0].merge(parts[1].state())
    parts[0].merge(parts[2].state())
    assert parts[0].compute() == pytest.approx(whole.compute())
    assert parts[0].clip_miou == whole.clip_miou
    with pytest.raises(ValueError, match="no video was evaluated"):
        SoundMetrics(mode=mode).compute()


def test_the_deaf_oracle_scores_what_marking_every_visible_object_scores():
    upper, left = halves()
    visible = ((upper + left) > 0).float()  # 12 pixels, 8 of them sound
    metrics = ObjectMetrics(mode="corrected")
    metrics.update(deaf_oracle_logits(visible), upper)
    metrics.update(deaf_oracle_logits(visible), torch.zeros(2, 4, 4))  # nothing sounds, and all is marked
    # J = 8 / 12 and 0; F = 1.3 * 8 / (0.3 * 8 + 12) and 0.
    assert metrics.compute() == pytest.approx({"miou": 8 / 12 / 2, "fscore": 1.3 * 8 / 14.4 / 2})


@pytest.mark.parametrize("clips_per_asset", [1, 50])
def test_the_interval_over_two_assets_stays_wide_however_many_clips_they_make(clips_per_asset):
    scores = [0.0] * clips_per_asset + [1.0] * clips_per_asset
    assets = [["dog.webp"]] * clips_per_asset + [["cat.webp"]] * clips_per_asset
    interval = asset_interval(scores, assets, num_resamples=20_000)
    # The mean is w / (w + v) of two exponential weights, which is uniform on (0, 1).
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.5, 0.025, 0.975), abs=0.01)
    assert interval.excludes(1)
    assert not interval.excludes(0.5)


def test_the_interval_over_many_independent_assets_is_the_usual_one_of_a_mean():
    scores = np.random.default_rng(0).normal(0.6, 0.1, size=400)
    interval = asset_interval(scores.tolist(), [[str(number)] for number in range(400)])
    half = 1.96 * scores.std() / 20
    assert (interval.low, interval.high) == pytest.approx(
        (scores.mean() - half, scores.mean() + half), abs=0.002
    )


def test_a_shared_recording_widens_the_interval_and_one_asset_alone_gives_none():
    scores = [0.2, 0.4, 0.6, 0.8] * 5
    own = [[f"photo{number}"] for number in range(20)]
    shared = [[f"photo{number}", f"sound{number % 4}"] for number in range(20)]
    narrow, wide = asset_interval(scores, own), asset_interval(scores, shared)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert asset_interval(scores, shared) == wide
    with pytest.raises(ValueError, match="all clips are made of only 'a'"):
        asset_interval([0.1, 0.2], [["a"], ["a"]])
    with pytest.raises(ValueError, match="clip 1 has none"):
        asset_interval([0.1, 0.2], [["a"], []])
