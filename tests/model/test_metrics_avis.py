"""AVIS: instances from classes, FSLA against a slow oracle, HOTA and mAP of tracks whose scores are known."""

import itertools

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from sdavs_model.data.benchmarks.avis import Track, TrackedVideo
from sdavs_model.metrics import AVISMetrics
from sdavs_model.metrics.instances import find_regions, link

HEIGHT, WIDTH = 12, 16
Boxes = list[tuple[int, int, int, int] | None]


def track(category: int, boxes: Boxes, score: float = 1.0) -> Track:
    """A track of rectangles (left, top, right, bottom), None where it is silent."""
    return Track(category=category, masks=tuple(b and encode(b) for b in boxes), score=score)


def encode(box: tuple[int, int, int, int]) -> dict:
    return coco_mask.encode(np.asfortranarray(dense(box).astype(np.uint8)))


def dense(box: tuple[int, int, int, int] | None) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    if box:
        mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def video(tracks: list[Track], length: int, name: str = "v") -> TrackedVideo:
    files = tuple(f"{name}/{t}.jpg" for t in range(length))
    return TrackedVideo(name=name, height=HEIGHT, width=WIDTH, files=files, tracks=tuple(tracks))


def metrics(*videos: TrackedVideo, mode: str = "official") -> AVISMetrics:
    return AVISMetrics(ground_truth={v.name: v for v in videos}, num_classes=4, mode=mode)


def random_tracks(rng: np.random.Generator, count: int, length: int) -> list[tuple[int, Boxes]]:
    """Categories and boxes of tracks that appear and vanish."""
    tracks = []
    for _ in range(count):
        left, top = int(rng.integers(0, 9)), int(rng.integers(0, 6))
        boxes: Boxes = [None if rng.random() < 0.4 else (left, top, left + 6, top + 5) for _ in range(length)]
        boxes[int(rng.integers(length))] = (left, top, left + 6, top + 5)
        tracks.append((int(rng.integers(1, 3)), boxes))
    return tracks


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 0.0


def fsla_oracle(videos: list[tuple[list, list, int]], *, official: bool) -> float:
    """Dense masks, all assignments tried, one frame and threshold after the other."""
    right = total = 0
    for true, found, length in videos:
        masks = [[[dense(box) for box in boxes] for _, boxes in side] for side in (true, found)]
        potential = np.zeros((len(true), len(found)))
        for t in range(length):
            similarity = np.array([[iou(a[t], b[t]) for b in masks[1]] for a in masks[0]]).reshape(
                potential.shape
            )
            for i, j in np.ndindex(potential.shape):
                union = similarity[i].sum() + similarity[:, j].sum() - similarity[i, j]
                potential[i, j] += similarity[i, j] / union if union else 0
        num_true = [sum(box is not None for box in boxes) for _, boxes in true]
        num_found = [length if official else sum(box is not None for box in boxes) for _, boxes in found]
        score = potential / (np.add.outer(num_true, num_found) - potential)
        small = min(score.shape)
        options = (
            list(zip(rows, columns, strict=True))
            for rows in itertools.combinations(range(len(true)), small)
            for columns in itertools.permutations(range(len(found)), small)
        )
        pairs = max(options, key=lambda o: sum(score[p] for p in o))
        for t, alpha in itertools.product(range(length), np.arange(0.05, 0.99, 0.05)):
            rows = [i for i, (_, boxes) in enumerate(true) if boxes[t]]
            columns = [j for j, (_, boxes) in enumerate(found) if boxes[t]]
            total += 1
            if official:
                classes = {category for category, _ in found}
                if len(rows) != len(columns) or {true[i][0] for i in rows} != classes:
                    continue
                if not rows:
                    right += 1
                elif len(rows) == 1:
                    places = [place for place, (_, j) in enumerate(pairs) if j == rows[0]]
                    right += bool(places) and iou(masks[0][rows[0]][t], masks[1][places[0]][t]) > alpha
                else:
                    right += all(
                        true[i][0] == found[j][0]
                        and (
                            not found[j][1][t]
                            if not true[i][1][t]
                            else iou(masks[0][i][t], masks[1][j][t]) > alpha
                        )
                        for i, j in pairs
                    )
            else:
                partner = dict(pairs)
                right += len(rows) == len(columns) and all(
                    i in partner
                    and partner[i] in columns
                    and true[i][0] == found[partner[i]][0]
                    and iou(masks[0][i][t], masks[1][partner[i]][t]) > alpha
                    for i in rows
                )
    return right / total


@pytest.mark.parametrize("mode", ["official", "corrected"])
def test_fsla_equals_the_oracle_on_random_tracks(mode):
    rng = np.random.default_rng(3)
    cases, videos, predictions = [], [], {}
    for number in range(40):
        length = 6
        true = random_tracks(rng, int(rng.integers(1, 4)), length)
        # Mostly near the ground truth, so that frames of every group are correct at some thresholds.
        found = [(c, [b and (b[0] + number % 3, *b[1:]) for b in boxes]) for c, boxes in true]
        found = found if number % 4 else random_tracks(rng, 2, length)
        rng.shuffle(found)
        videos.append(video([track(*t) for t in true], length, str(number)))
        predictions[str(number)] = [track(*f) for f in found]
        cases.append((true, found, length))
    scores = metrics(*videos, mode=mode).scores(predictions)
    assert scores["fsla"] == pytest.approx(fsla_oracle(cases, official=mode == "official"), abs=1e-6)
    assert 0.05 < scores["fsla"] < 0.95


def test_the_official_fsla_counts_silent_frames_as_wrong_in_videos_with_any_predicted_track():
    box = (0, 0, 6, 6)
    ground_truth = video([track(1, [box, None])], 2)
    predictions = {"v": list(ground_truth.tracks)}
    assert metrics(ground_truth).scores(predictions)["fsla_none"] == 0
    assert metrics(ground_truth, mode="corrected").scores(predictions)["fsla_none"] == 1
    assert metrics(ground_truth).scores(predictions)["fsla_single"] == pytest.approx(1)


def test_hota_and_map_of_a_perfect_a_half_and_an_empty_prediction():
    left, right = (0, 0, 6, 6), (8, 0, 14, 6)
    ground_truth = video([track(1, [left, left]), track(1, [right, right])], 2)
    perfect = metrics(ground_truth, mode="corrected").scores({"v": ground_truth.tracks})
    assert (perfect["fsla"], perfect["hota"], perfect["map"]) == pytest.approx((1, 1, 1))
    # One of two tracks: DetA = AssA * 0.5 ...: HOTA = sqrt(0.5 * 1); precision 1 up to recall 0.5, 51 of 101 points.
    half = metrics(ground_truth, mode="corrected").scores({"v": [ground_truth.tracks[0]]})
    assert (half["hota"], half["map"]) == pytest.approx((0.5**0.5, 51 / 101))
    # Officially the two categories that never occur count as HOTA 0; mAP leaves them out in both modes.
    official = metrics(ground_truth).scores({"v": [ground_truth.tracks[0]]})
    assert (official["hota"], official["map"]) == pytest.approx((0.5**0.5 / 3, 51 / 101))
    assert metrics(ground_truth).scores({"v": []})["map"] == 0


def test_the_official_hota_counts_the_silent_frames_of_a_predicted_track_as_false_positives():
    ground_truth = video([track(1, [(0, 0, 6, 6), None])], 2)
    perfect = {"v": ground_truth.tracks}
    corrected = metrics(ground_truth, mode="corrected").scores(perfect)
    assert (corrected["hota"], corrected["map"]) == pytest.approx((1, 1))
    # One true positive, one false positive: DetA = 1 / 2. Of its pair: AssA = 1 / (1 + 2 - 1) = 1 / 2. HOTA is the
    # root of the product, at every threshold, and the two categories that never occur count as 0.
    official = metrics(ground_truth).scores(perfect)
    assert (official["hota"], official["map"]) == pytest.approx((0.5 / 3, 1))


def test_regions_are_linked_to_tracks_by_class_and_overlap_and_noise_is_dropped():
    frames = []
    for shift in range(4):
        classes = np.zeros((HEIGHT * 8, WIDTH * 8), np.uint8)
        classes[0:40, shift * 4 : 40 + shift * 4] = 1
        classes[60:80, 60:80] = 2 if shift != 1 else 0  # silent for a second
        classes[90, 100] = 3  # a stray pixel
        frames.append(find_regions(classes, np.full(classes.shape, 0.8, np.float32)))
    tracks = link(frames)
    assert [(t.category, [m is not None for m in t.masks]) for t in tracks] == [
        (1, [True] * 4),
        (2, [True, False, True, True]),
    ]
    assert tracks[0].score == pytest.approx(0.8)


def test_clips_of_one_video_scored_by_two_workers_are_merged(tmp_path):
    boxes: Boxes = [(0, 0, 8, 12)] * 4 + [None]
    ground_truth = video([track(2, boxes)], 5)
    workers = [metrics(ground_truth, mode="corrected") for _ in range(2)]
    for number, first in enumerate((0, 3)):
        logits = torch.full((3, 4, HEIGHT, WIDTH), -4.0)
        logits[:, 0] = 0.0
        for t in range(min(3, 5 - first)):
            if boxes[first + t]:
                logits[t, 2, :, :8] = 6.0
        present = torch.arange(first, first + 3) < 5
        workers[number].add_clip(logits, {"video": "v", "first_frame": first, "present": present})
    with pytest.raises(ValueError, match="video 'v': 3 of 5 frames were evaluated"):
        workers[0].compute()
    workers[0].merge(workers[1].state())
    scores = workers[0].compute()
    assert (scores["fsla"], scores["hota"], scores["map"]) == pytest.approx((1, 1, 1))
