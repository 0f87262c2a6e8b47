"""Each protocol against a slow oracle written from its description, quirks included, and against merged shards."""

import numpy as np
import pytest
import torch

from sdavs_model.metrics import ObjectMetrics, SemanticMetrics, VPOMetrics

CLASSES = 5


def semantic_clips(seed: int = 0, count: int = 4) -> list[tuple[torch.Tensor, dict]]:
    """Logits [10, 5, 8, 6] and items; odd clips have five frames and padding behind them, the class 3 never occurs.

    In the third clip nothing sounds; in the fourth only background is predicted.
    """
    generator = torch.Generator().manual_seed(seed)
    clips = []
    for number in range(count):
        real = 5 if number % 2 else 10
        present = torch.arange(10) < real
        masks = torch.randint(0, 3, (10, 8, 6), generator=generator) * present[:, None, None]
        logits = torch.randn(10, CLASSES, 8, 6, generator=generator)
        logits[:, 3] = -9
        if number == 2:
            masks[:] = 0
        if number == 3:
            logits[:, 0] = 9
        valid = present.clone()
        valid[2] = number != 1
        clips.append((logits, {"masks": masks, "valid": valid, "present": present}))
    return clips


def semantic_oracle(clips: list[tuple[torch.Tensor, dict]], *, official: bool) -> dict[str, float]:
    """Class by class, frame by frame, pixel set by pixel set."""
    iou: list[list[float]] = [[] for _ in range(CLASSES)]
    fscore: list[list[float]] = [[] for _ in range(CLASSES)]
    for logits, clip in clips:
        for time in range(len(logits)):
            if not official and not clip["valid"][time]:
                continue
            # Upstream multiplies the logits by the flag: all zeros, whose argmax is the background.
            predicted = (logits[time] * clip["present"][time]).argmax(0).numpy()
            target = clip["masks"][time].numpy()
            for k in range(CLASSES):
                hits, found, true = (
                    ((predicted == k) & (target == k)).sum(),
                    (predicted == k).sum(),
                    (target == k).sum(),
                )
                if found + true == 0:
                    continue
                iou[k].append(hits / (2.220446049250313e-16 + found + true - hits))
                precision = hits / found if found else np.nan
                recall = hits / true if true else np.nan
                denominator = 0.3 * precision + recall
                score = 1.3 * precision * recall / denominator if denominator > 0 else np.nan
                fscore[k].append(0.0 if np.isnan(score) else score)
    means = [[np.mean(v) if v else (0.0 if official else np.nan) for v in values] for values in (iou, fscore)]
    return {
        "miou": float(np.nanmean(means[0])),
        "fscore": float(np.nanmean(means[1])),
        "miou_no_background": float(np.nanmean(means[0][:-1] if official else means[0][1:])),
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", ["official", "corrected"])
def test_semantic_metrics_equal_the_oracle_and_their_merged_shards(mode, seed):
    clips = semantic_clips(seed)
    whole = SemanticMetrics(num_classes=CLASSES, mode=mode)
    shards = [SemanticMetrics(num_classes=CLASSES, mode=mode) for _ in range(3)]
    for number, (logits, clip) in enumerate(clips):
        whole.add_clip(logits, clip)
        shards[number % 3].add_clip(logits, clip)
    merged = SemanticMetrics(num_classes=CLASSES, mode=mode)
    for shard in reversed(shards):
        merged.merge(shard.state())
    expected = semantic_oracle(clips, official=mode == "official")
    assert whole.compute() == pytest.approx(expected, abs=1e-6)
    assert merged.compute() == pytest.approx(expected, abs=1e-6)


def test_one_stray_pixel_of_an_absent_class_costs_the_official_score_a_whole_class():
    masks = torch.zeros(1, 10, 10, dtype=torch.long)
    stray = masks.clone()
    stray[0, 0, 0] = 1
    metrics = SemanticMetrics(num_classes=2)
    metrics.update(stray, masks)
    assert metrics.compute()["miou"] == pytest.approx((0.99 + 0) / 2)


def vpo_pictures(seed: int) -> list[tuple[torch.Tensor, dict]]:
    """Logits [3, 5, 8, 8] and masks at two other sizes, with ignored pixels; class 4 never occurs.

    The fourth picture shows background alone, the fifth is ignored as a whole.
    """
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for number, (height, width) in enumerate(((8, 8), (11, 7), (5, 13), (9, 9), (8, 8))):
        mask = torch.randint(0, 4, (height, width), generator=generator)
        mask[0, :3] = 255
        if number > 2:
            mask[:] = (0, 255)[number - 3]
        logits = torch.randn(3, CLASSES, 8, 8, generator=generator)
        logits[:, 4] = -9
        pictures.append((logits, {"full_masks": mask.to(torch.uint8).expand(3, -1, -1)}))
    return pictures


def vpo_oracle(pictures: list[tuple[torch.Tensor, dict]], *, official: bool) -> dict[str, float]:
    """Sets of pixels of the whole split."""
    hits, found, true = (np.zeros(CLASSES) for _ in range(3))
    for logits, clip in pictures:
        mask = clip["full_masks"][0]
        mean = torch.nn.functional.interpolate(logits.mean(0, keepdim=True), mask.shape, mode="bilinear")
        predicted = mean[0].argmax(0).flatten().tolist()
        for p, t in zip(predicted, mask.flatten().tolist(), strict=True):
            if t != 255:
                hits[t] += p == t
                found[p] += 1
                true[t] += 1
    with np.errstate(invalid="ignore"):
        iou = hits / (found + true - hits + (np.spacing(1) if official else 0))
        fscore = 1.3 * hits / (1.3 * hits + 0.3 * (true - hits) + (found - hits))
        fdr = (found - hits) / found
    scores = {"miou": np.nanmean(iou), "fscore": np.nanmean(fscore), "fdr": np.nanmean(fdr)}
    return {name: round(float(value), 4) if official else float(value) for name, value in scores.items()}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", ["official", "corrected"])
def test_vpo_metrics_equal_the_oracle_and_their_merged_shards(mode, seed):
    pictures = vpo_pictures(seed)
    whole, left, right = (VPOMetrics(num_classes=CLASSES, mode=mode) for _ in range(3))
    for number, picture in enumerate(pictures):
        whole.add_clip(*picture)
        (left if number % 2 else right).add_clip(*picture)
    left.merge(right.state())
    expected = vpo_oracle(pictures, official=mode == "official")
    assert whole.compute() == pytest.approx(expected, abs=1e-6)
    assert left.compute() == whole.compute()


def test_corrected_object_metrics_use_one_threshold_and_reward_empty_predictions():
    logits = torch.full((3, 1, 4, 4), -5.0)
    masks = torch.zeros(3, 4, 4, dtype=torch.long)
    logits[0, 0, :2] = masks[0, :, :2] = 1  # the upper half found, the left half true: a quarter of 16 hits
    logits[2, 0, 0, 0] = 1  # one pixel of noise in a frame without sound
    metrics = ObjectMetrics(mode="corrected")
    metrics.add_clip(logits, {"masks": masks, "valid": torch.tensor([True, True, True])})
    assert metrics.compute() == pytest.approx(
        {"miou": (4 / 12 + 1 + 0) / 3, "fscore": (1.3 * 4 / (0.3 * 8 + 8) + 1) / 3}
    )
    official = ObjectMetrics()
    official.add_clip(logits, {"masks": masks, "valid": torch.tensor([False, False, True])})
    assert official.compute()["miou"] == pytest.approx(15 / 16)


def test_metrics_refuse_other_values_and_no_clip_at_all():
    for metrics in (SemanticMetrics(num_classes=2), VPOMetrics(num_classes=2)):
        with pytest.raises(ValueError, match="was evaluated"):
            metrics.compute()
        with pytest.raises(ValueError, match=r"target: value 2; allowed: 0 \.\.\. 1"):
            metrics.update(torch.zeros(1, 2, 2, dtype=torch.long), torch.full((1, 2, 2), 2))
