"""What depends on (seed, epoch, step) alone: the order of clips and the learning rate."""

from itertools import chain

import pytest
from sdavs_platform.config.tree import OptimizerConfig
from sdavs_platform.training.batches import GlobalBatchSampler
from sdavs_platform.training.engine import lr_factor


def global_batches(
    world_size: int, *, epoch: int = 0, first_batch: int = 0, num_clips: int = 30
) -> list[list[int]]:
    parts = []
    for rank in range(world_size):
        sampler = GlobalBatchSampler(
            num_clips=num_clips, batch_size=4, rank=rank, world_size=world_size, seed=7
        )
        sampler.epoch, sampler.first_batch = epoch, first_batch
        parts.append(list(sampler))
    return [list(chain(*step)) for step in zip(*parts, strict=True)]


def test_any_number_of_workers_forms_the_same_global_batches():
    assert global_batches(1) == global_batches(2) == global_batches(3) == global_batches(4)


def test_an_epoch_resumes_in_its_middle_with_the_clips_it_would_have_had_next():
    assert global_batches(3, first_batch=2) == global_batches(1)[2:]


def test_no_clip_comes_twice_in_an_epoch_and_the_next_epoch_differs():
    clips = list(chain(*global_batches(2)))
    assert len(clips) == len(set(clips)) == 28
    assert clips != list(chain(*global_batches(2, epoch=1)))


def test_the_learning_rate_warms_up_and_drops_at_each_milestone():
    config = OptimizerConfig(warmup_steps=10, milestones=(0.5, 0.8), gamma=0.1)
    factors = [lr_factor(step, total_steps=100, config=config) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10] == factors[49] == 1
    assert factors[50] == pytest.approx(0.1)
    assert factors[99] == pytest.approx(0.01)
