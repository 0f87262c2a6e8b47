"""Several workers score a split to the figures of a single process, to the last bit."""

import copy
from typing import Any

import pytest
import torch
from sdavs_platform.evaluation.flips import Flipped
from sdavs_platform.evaluation.scorers import cut, merged, score_part

from sdavs_model.data.training_clips import collate_clips
from sdavs_model.metrics import Metrics, ObjectMetrics
from sdavs_model.metrics.semantic import SemanticMetrics
from sdavs_model.training_step import evaluate


class Clips(torch.utils.data.Dataset):
    """Made-up clips; the model below only sees their frames."""

    def __init__(self, num_classes: int) -> None:
        generator = torch.Generator().manual_seed(3)
        self.masks = torch.randint(0, max(2, num_classes), (11, 2, 8, 8), generator=generator)
        self.frames = torch.randn(11, 2, 3, 8, 8, generator=generator)

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "name": f"clip{index}",
            "frames": self.frames[index],
            "log_mel": torch.zeros(2, 1, 96, 64),
            "masks": self.masks[index],
            "valid": torch.ones(2, dtype=torch.bool),
            "present": torch.ones(2, dtype=torch.bool),
        }


class Model(torch.nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.classify = torch.nn.Conv2d(3, num_classes, 1)

    def forward(self, frames: torch.Tensor, log_mel: torch.Tensor, present: Any = None) -> torch.Tensor:
        return self.classify(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


@pytest.mark.parametrize(
    ("metrics", "num_classes"),
    [
        (ObjectMetrics(), 1),
        (ObjectMetrics(mode="corrected"), 1),
        (ObjectMetrics(videos_per_batch=4), 1),
        (SemanticMetrics(num_classes=5), 5),
    ],
)
@pytest.mark.parametrize("num_parts", [1, 2, 3])
def test_parts_merge_to_the_figures_of_one_process(metrics: Metrics, num_classes: int, num_parts: int):
    clips, model = Clips(num_classes), Model(num_classes)
    batches = torch.utils.data.DataLoader(clips, batch_size=4, collate_fn=collate_clips)
    expected = evaluate(model, batches, device="cpu", metrics=copy.deepcopy(metrics)).compute()
    parts = cut(len(clips), num_parts=num_parts, batch_size=4)
    assert len(parts) == num_parts
    found = merged(
        [score_part(model, clips, part, metrics=metrics, device="cpu", batch_size=4) for part in parts]
    )
    assert found.compute() == expected
    assert all(0 <= value <= 1 for value in expected.values())


def test_clips_are_split_between_batches_and_no_part_is_empty():
    assert cut(11, num_parts=2, batch_size=4) == [range(0, 4), range(4, 11)]
    assert cut(11, num_parts=9, batch_size=4) == [range(0, 4), range(4, 8), range(8, 11)]
    assert cut(3, num_parts=2, batch_size=4) == [range(0, 3)]


def test_flips_make_a_prediction_that_mirrored_frames_mirror():
    model = Model(1)
    model.config = None
    model.classify = torch.nn.Conv2d(3, 1, 3, padding=1)
    frames, log_mel = Clips(1).frames[:2], torch.zeros(2, 2, 1, 96, 64)
    flipped = Flipped(model)
    logits = flipped(frames, log_mel)
    assert torch.allclose(flipped(frames.flip(-1), log_mel), logits.flip(-1), atol=1e-6)
    assert not torch.allclose(model(frames, log_mel), logits)
