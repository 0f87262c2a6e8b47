"""Losses against values worked out by hand, object metrics against the published script's arithmetic."""

import itertools
import math

import numpy as np
import pytest
import torch

from sdavs_model.losses import segmentation_loss
from sdavs_model.metrics import ObjectMetrics


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_the_loss_of_a_two_by_two_mask_is_the_one_worked_out_by_hand():
    logits = torch.full((1, 1, 1, 2, 2), logit(0.75))
    masks = torch.tensor([[[[1, 1], [0, 0]]]])
    losses = segmentation_loss(logits, masks)
    # p = 0.75 everywhere: inter = 1.5, sum p = 3, sum g = 2, and one pixel of smoothing.
    assert float(losses["ce"]) == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2, abs=1e-6)
    assert float(losses["iou"]) == pytest.approx(1 - (1.5 + 1) / (3.5 + 1), abs=1e-6)
    assert float(losses["dice"]) == pytest.approx(1 - (3 + 1) / (5 + 1), abs=1e-6)
    assert float(losses["loss"]) == pytest.approx(float(losses["ce"] + losses["iou"] + losses["dice"]))
    weighted = segmentation_loss(logits, masks, weights={"ce": 2.0, "iou": 0.0, "dice": 0.5})
    assert float(weighted["loss"]) == pytest.approx(float(2 * losses["ce"] + 0.5 * losses["dice"]))
    assert weighted["iou"] == losses["iou"]


def test_with_an_empty_mask_an_empty_prediction_has_the_least_loss():
    masks = torch.zeros(1, 1, 4, 4, dtype=torch.long)
    empty = segmentation_loss(torch.full((1, 1, 1, 4, 4), -20.0), masks)
    full = segmentation_loss(torch.full((1, 1, 1, 4, 4), 20.0), masks)
    assert float(empty["loss"]) < 1e-6
    assert float(full["iou"]) == pytest.approx(1 - 1 / 17)
    assert float(full["dice"]) == pytest.approx(1 - 1 / 17)


def test_frames_without_annotation_neither_count_nor_receive_gradient():
    logits = torch.randn(1, 2, 1, 4, 4, requires_grad=True)
    masks = torch.randint(0, 2, (1, 2, 4, 4))
    valid = torch.tensor([[True, False]])
    losses = segmentation_loss(logits, masks, valid)
    torch.testing.assert_close(losses["loss"], segmentation_loss(logits[:, :1], masks[:, :1])["loss"])
    losses["loss"].backward()
    assert logits.grad[0, 1].abs().max() == 0


def test_semantic_iou_and_dice_are_over_the_classes_in_the_frame():
    logits = torch.zeros(1, 1, 3, 2, 2)
    masks = torch.tensor([[[[0, 0], [2, 2]]]])
    losses = segmentation_loss(logits, masks)
    inter, union = 2 / 3, 4 / 3 + 2 - 2 / 3
    assert float(losses["iou"]) == pytest.approx(1 - (inter + 1) / (union + 1), abs=1e-6)
    with pytest.raises(ValueError, match=r"masks: values 0 ... 3; allowed: 0 ... 2"):
        segmentation_loss(logits, masks + (masks == 2).long())


def reference_scores(logits: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """AVSBench's arithmetic for one video, threshold by threshold, in float32."""
    with np.errstate(over="ignore"):
        p = 1 / (1 + np.exp(-logits.astype(np.float32)))
    iou, curves = [], []
    for frame, mask in zip(p, target, strict=True):
        predicted = frame > 0.5
        if mask.sum() == 0:
            iou.append((~predicted).sum() / (mask.size + 1e-7))
            continue
        iou.append((predicted & (mask > 0)).sum() / ((predicted | (mask > 0)).sum() + 1e-7))
        curve = []
        for threshold in torch.linspace(0, 1 - 1e-10, 255).numpy():
            passed = frame >= threshold
            tp = (passed & (mask > 0)).sum()
            precision, recall = tp / (passed.sum() + 1e-20), tp / (mask.sum() + 1e-20)
            denominator = 0.3 * precision + recall
            curve.append(1.3 * precision * recall / denominator if denominator > 0 else 0.0)
        curves.append(curve)
    return float(np.mean(iou)), float(np.mean(curves, axis=0).max()) if curves else 0.0


def test_the_object_metrics_equal_the_published_arithmetic_video_by_video_quirks_included():
    generator = np.random.default_rng(0)
    total, expected = ObjectMetrics(), []
    # Unsure and saturated predictions (a sigmoid of exactly 1), empty and full ones; masks from empty to full.
    for spread, shift, fraction in itertools.product((0.3, 3, 60), (-90, -2, 0, 90), (0, 0.02, 0.5, 1)):
        logits = (generator.normal(size=(5, 12, 9)) * spread + shift).astype(np.float32)
        target = (generator.random((5, 12, 9)) < fraction).astype(np.int64)
        target[: generator.integers(0, 6)] = 0
        expected.append(reference_scores(logits, target))
        one = ObjectMetrics()
        for metrics in (one, total):
            metrics.update(torch.from_numpy(logits), torch.from_numpy(target))
        assert tuple(one.compute().values()) == pytest.approx(expected[-1], abs=1e-6)
        if not target.any():
            assert expected[-1][1] == 0.0  # a video that is silent throughout lowers F
    assert tuple(total.compute().values()) == pytest.approx(np.mean(expected, axis=0), abs=1e-6)
    assert sum(score == 0 for _, score in expected) > 10


def random_video(generator: np.random.Generator, num_frames: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits and a mask [T, 12, 9] that they follow, more or less closely and with a shift of their own."""
    target = (generator.random((num_frames, 12, 9)) < 0.3).astype(np.int64)
    logits = (
        generator.normal(size=target.shape) + target * generator.uniform(0.5, 3) + generator.uniform(-3, 3)
    )
    return logits.astype(np.float32), target


@pytest.mark.parametrize("videos_per_batch", [1, 2, 4])
def test_the_official_f_takes_one_threshold_for_all_videos_of_a_batch(videos_per_batch):
    generator = np.random.default_rng(1)
    videos = [random_video(generator) for _ in range(7)]  # the last batch of 2 or 4 is incomplete
    videos[2][1][:] = 0  # a silent video
    metrics = ObjectMetrics(videos_per_batch=videos_per_batch)
    for logits, target in videos:
        metrics.update(torch.from_numpy(logits), torch.from_numpy(target))
    batches = [videos[i : i + videos_per_batch] for i in range(0, 7, videos_per_batch)]
    expected = [reference_scores(*map(np.concatenate, zip(*batch, strict=True))) for batch in batches]
    assert tuple(metrics.compute().values()) == pytest.approx(np.mean(expected, axis=0), abs=1e-6)


def test_the_official_f_falls_when_more_videos_share_a_threshold():
    videos = [random_video(generator) for generator in [np.random.default_rng(2)] for _ in range(8)]
    scores = []
    for videos_per_batch in (1, 2, 4):
        metrics = ObjectMetrics(videos_per_batch=videos_per_batch)
        for logits, target in videos:
            metrics.update(torch.from_numpy(logits), torch.from_numpy(target))
        scores.append(metrics.compute())
    assert scores[0]["fscore"] > scores[1]["fscore"] > scores[2]["fscore"]
    assert scores[0]["miou"] == pytest.approx(scores[2]["miou"])


def test_a_batch_of_videos_is_never_split_between_workers():
    metrics = ObjectMetrics(videos_per_batch=2)
    for _ in range(3):
        metrics.update(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4))
    with pytest.raises(
        ValueError, match=r"the last batch holds 1 of 2 videos; score the split in one process"
    ):
        metrics.state()
    with pytest.raises(ValueError, match=r"videos_per_batch: 4 has no effect in the corrected mode"):
        ObjectMetrics(mode="corrected", videos_per_batch=4)


def test_two_workers_merge_to_what_one_computes():
    torch.manual_seed(0)
    videos = [(torch.randn(3, 8, 8), (torch.rand(3, 8, 8) > 0.5).long()) for _ in range(4)]
    one, left, right = ObjectMetrics(), ObjectMetrics(), ObjectMetrics()
    for i, video in enumerate(videos):
        one.update(*video)
        (left if i % 2 else right).update(*video)
    left.merge(right.state())
    assert left.compute() == pytest.approx(one.compute())


def test_metrics_refuse_wrong_shapes_other_values_and_no_video_at_all():
    with pytest.raises(ValueError, match="no video was evaluated"):
        ObjectMetrics().compute()
    with pytest.raises(ValueError, match=r"same shape \[N, H, W\]"):
        ObjectMetrics().update(torch.zeros(1, 4, 4), torch.zeros(1, 5, 4))
    with pytest.raises(ValueError, match="other than 0 and 1"):
        ObjectMetrics().update(torch.zeros(1, 4, 4), torch.full((1, 4, 4), 255))
