"""What depends on (seed, epoch, step) alone: the order of clips and the learning rate."""

import json
from collections import Counter
from dataclasses import asdict
from itertools import chain

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sdavs_platform.config.tree import OptimizerConfig, RunConfig
from sdavs_platform.training import pace
from sdavs_platform.training.batches import Batches, GlobalBatchSampler
from sdavs_platform.training.checkpoints.checkpoint import LoopState
from sdavs_platform.training.engine import (
    compute_dtype,
    deepspeed_config,
    parameter_groups,
    with_agreed_precision,
)
from sdavs_platform.training.faults.spikes import SpikeGuard, UsualLoss
from sdavs_platform.training.mixing import ClipOrder, open_training_sets
from sdavs_platform.training.pace import Clock, Pace
from sdavs_platform.training.preflight import check_data
from sdavs_platform.training.schedule import lr_factor

from sdavs_model import SDAVSConfig, build_model


def global_batches(
    world_size: int, *, epoch: int = 0, first_batch: int = 0, num_clips: int = 30
) -> list[list[int]]:
    parts = []
    for rank in range(world_size):
        sampler = GlobalBatchSampler(
            order=ClipOrder(sizes=[num_clips]), batch_size=4, rank=rank, world_size=world_size, seed=7
        )
        sampler.epoch, sampler.first_batch = epoch, first_batch
        parts.append(list(sampler))
    return [list(chain(*step)) for step in zip(*parts, strict=True)]


def test_any_number_of_workers_forms_the_same_global_batches():
    assert global_batches(1) == global_batches(2) == global_batches(3) == global_batches(4)


def test_the_two_sounds_of_a_picture_are_in_the_same_batch():
    sampler = GlobalBatchSampler(
        order=ClipOrder(sizes=[30]), batch_size=4, rank=0, world_size=1, seed=7, sounds=2
    )
    batches = list(sampler)
    assert len(batches) == sampler.num_batches == 7
    assert len(set(chain(*batches))) == 28
    for first, first_again, second, second_again in batches:
        assert (first_again, second_again) == (first + 30, second + 30)


def test_fewer_and_longer_clips_leave_the_number_of_batches():
    sampler = GlobalBatchSampler(order=ClipOrder(sizes=[30]), batch_size=10, rank=1, world_size=2, seed=7)
    of_windows = list(sampler)
    sampler.batch_clips = 3
    of_whole_clips = list(sampler)
    assert [len(batch) for batch in of_windows] == [5, 5, 5]
    assert [len(batch) for batch in of_whole_clips] == [2, 2, 2]


def test_an_epoch_resumes_in_its_middle_with_the_clips_it_would_have_had_next():
    assert global_batches(3, first_batch=2) == global_batches(1)[2:]


def test_no_clip_comes_twice_in_an_epoch_and_the_next_epoch_differs():
    clips = list(chain(*global_batches(2)))
    assert len(clips) == len(set(clips)) == 28
    assert clips != list(chain(*global_batches(2, epoch=1)))


def test_sets_are_mixed_by_weight_and_every_clip_of_a_set_comes_equally_often():
    order = ClipOrder(sizes=[6, 30], weights=[1.0, 0.5])
    clips = order.draw(np.random.default_rng([7, 0]))
    assert len(clips) == order.num_clips == 36
    first, second = clips[clips < 6], clips[clips >= 6]
    assert (len(first), len(second)) == (24, 12)
    assert Counter(first.tolist()) == dict.fromkeys(range(6), 4)
    assert len(set(second.tolist())) == 12
    assert not np.array_equal(clips, order.draw(np.random.default_rng([7, 1])))
    assert np.array_equal(clips, order.draw(np.random.default_rng([7, 0])))
    plain = ClipOrder(sizes=[6, 30]).draw(np.random.default_rng([7, 0]))
    assert sorted(plain.tolist()) == list(range(36))


def test_balanced_categories_are_drawn_equally_often():
    categories = ["dog"] * 900 + ["cat"] * 100
    counts = {}
    for balance in (0.5, 1.0):
        order = ClipOrder(sizes=[1000], categories=categories, balance=balance)
        drawn = np.concatenate([order.draw(np.random.default_rng([1, epoch])) for epoch in range(10)])
        counts[balance] = (drawn >= 900).mean()
    # Odds of 100 to 900 to the power 1 - balance.
    assert counts[0.5] == pytest.approx(1 / 4, abs=0.02)
    assert counts[1.0] == pytest.approx(1 / 2, abs=0.02)


def test_a_mixed_training_reads_both_sets_and_refuses_one_of_another_kind(make_config, data, tmp_path):
    second = {"root": str(data), "split": "val", "weight": 1.0}
    config = make_config("mixed", data={"mix": [second]})
    batches = Batches(config, rank=0, world_size=1)
    names = [name for batch in batches.epoch(0) for name in batch["name"]]
    assert len(names) == 8  # of 8 + 3 clips in batches of 4
    assert {name.rpartition("_")[0] for name in names} == {"train", "val"}
    assert check_data(config) != check_data(make_config("alone"))
    folds = {"num_folds": 2, "fold": 0, "fold_by": "clips"}
    divided = open_training_sets(make_config("divided", data={"mix": [second], **folds}))
    assert [len(clips) for clips in divided] == [4, 3], "folds are of the first set alone"
    with pytest.raises(ValueError, match=r"data.mix: has no effect on cached features"):
        make_config(
            "cached",
            data={"mix": [second], "cache_features": True},
            model={"freeze_backbone": True, "freeze_audio_encoder": True},
        )


def test_the_learning_rate_warms_up_and_drops_at_each_milestone():
    config = OptimizerConfig(warmup_steps=10, milestones=(0.5, 0.8), gamma=0.1)
    factors = [lr_factor(step, progress=step / 100, config=config) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10] == factors[49] == 1
    assert factors[50] == pytest.approx(0.1)
    assert factors[99] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", {0: 1.0, 50: 0.6, 100: 0.2}),
        ("poly", {0: 1.0, 50: 0.2 + 0.8 * 0.5**0.9, 100: 0.2}),
        ("multi_step", {0: 1.0, 59: 1.0, 60: 0.28, 85: 0.208}),
    ],
)
def test_each_schedule_goes_from_the_peak_to_the_final_rate(schedule, expected):
    config = OptimizerConfig(schedule=schedule, final_lr_factor=0.2, warmup_steps=0)
    factors = {step: lr_factor(step, progress=step / 100, config=config) for step in expected}
    assert factors == pytest.approx(expected)


def test_a_constant_rate_warms_up_and_stays_and_takes_no_final_rate():
    config = OptimizerConfig(schedule="constant", warmup_steps=4)
    assert [lr_factor(step, progress=step / 9, config=config) for step in range(6)] == [
        0.25,
        0.5,
        0.75,
        1,
        1,
        1,
    ]
    with pytest.raises(ValueError, match=r"final_lr_factor: 0.1 has no effect"):
        OptimizerConfig(schedule="constant", final_lr_factor=0.1)


def test_a_stage_of_the_backbone_learns_slower_than_the_one_after_it():
    model = build_model(SDAVSConfig(backbone="test_convnext2", image_size=32, width=16, num_heads=2))
    stages = model.visual_encoder.stages()
    assert {name.split(".")[1]: stage for name, stage in stages.items() if "stages" in name} == {
        f"stages_{stage}": stage for stage in range(4)
    }
    assert stages["backbone.stem_0.weight"] == 0
    assert stages.keys() == dict(model.visual_encoder.named_parameters()).keys()
    config = OptimizerConfig(lr=1.0, backbone_lr_factor=0.5, backbone_stage_decay=0.1)
    groups = parameter_groups(model, config)
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert rate[id(model.decoder.fc.weight)] == 1
    for name, parameter in model.visual_encoder.named_parameters():
        assert rate[id(parameter)] == pytest.approx(0.5 * 0.1 ** (3 - stages[name]))
    assert len(parameter_groups(model, OptimizerConfig())) == 4


def test_a_spike_gets_no_finite_gradient_and_does_not_change_what_is_usual():
    guard = SpikeGuard(3.0, usual=UsualLoss(), device="cpu")
    assert float(guard.guarded(torch.tensor(100.0))) == 100  # too early to judge
    for _ in range(400):
        guard.guarded(torch.tensor(1.0))
    weight = torch.ones((), requires_grad=True)
    guard.guarded(weight * 2.9).backward()
    assert weight.grad == pytest.approx(2.9)
    assert not guard.found_spike()
    before = guard.usual()
    guard.guarded(weight * 4.0).backward()
    assert weight.grad.isnan()
    assert guard.found_spike()
    assert guard.usual().average == before.average < 1.2
    assert not guard.found_spike()
    state = LoopState(usual_loss=guard.usual())
    assert LoopState.from_json(json.dumps(asdict(state))) == state
    assert LoopState.from_json('{"step": 3}') == LoopState(step=3)


def test_auto_chooses_fp16_where_a_gpu_has_no_bf16(monkeypatch):
    config = RunConfig(cluster={"use_gpu": True, "num_workers": 1})
    assert compute_dtype(RunConfig()) == torch.float32
    assert compute_dtype(config) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert compute_dtype(config) == torch.float16
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)

    def gather(formats, own):
        formats[:] = [torch.bfloat16, own]

    monkeypatch.setattr(dist, "all_gather_object", gather)
    assert with_agreed_precision(config).training.precision == "fp16"
    assert deepspeed_config(with_agreed_precision(config), world_size=1)["fp16"] == {"enabled": True}
    with pytest.raises(ValueError, match=r"training.precision: 'fp16' needs cluster.use_gpu=true"):
        RunConfig(training={"precision": "fp16"})


class FakeTime:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_a_training_that_the_clock_ends_has_decayed_like_one_that_reaches_its_last_step():
    config = OptimizerConfig(warmup_steps=0, milestones=(0.6, 0.85), gamma=0.1)
    now = FakeTime()
    clock = Clock(started=now(), before_s=0, max_minutes=10, now=now)
    slow = Pace(total_steps=1000)
    rates, step, is_over = [], 0, False
    while not is_over:
        now.seconds += 20
        is_over = slow.agree(clock, device="cpu")
        rates.append(lr_factor(step, progress=slow.progress(step), config=config))
        step += 1
    assert step == 30
    assert rates[0] == 1
    assert rates[17] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.01)


def test_a_training_within_its_time_follows_its_steps():
    now = FakeTime()
    clock = Clock(started=now(), before_s=0, max_minutes=10, now=now)
    fast = Pace(total_steps=100)
    now.seconds += 60
    assert not fast.agree(clock, device="cpu")
    assert fast.progress(50) == 0.5
    assert Pace(total_steps=100).progress(50) == 0.5


def test_time_before_a_restart_counts_and_a_raised_limit_gives_time_back():
    now = FakeTime()
    spent = {"started": now(), "before_s": 300.0, "now": now}
    assert Clock(max_minutes=10, **spent).fraction == 0.5
    resumed = Pace(total_steps=100)
    resumed.time_fraction = 1.0  # as the checkpoint of a training that the clock ended
    assert resumed.progress(0) == 1
    assert not resumed.agree(Clock(max_minutes=20, **spent), device="cpu")
    assert resumed.progress(0) == 0.25


def test_all_workers_take_the_time_of_the_one_whose_clock_is_furthest(monkeypatch):
    others = torch.tensor(0.7, dtype=torch.float64)

    class Group:
        ReduceOp = torch.distributed.ReduceOp

        @staticmethod
        def is_initialized() -> bool:
            return True

        @staticmethod
        def all_reduce(tensor, op) -> None:
            assert op == torch.distributed.ReduceOp.MAX
            tensor.copy_(torch.maximum(tensor, others))

    monkeypatch.setattr(pace, "dist", Group)
    now = FakeTime()
    own = Clock(started=now(), before_s=30.0, max_minutes=1, now=now)
    agreed = Pace(total_steps=100)
    assert not agreed.agree(own, device="cpu")
    assert agreed.time_fraction == pytest.approx(0.7)


def test_a_checkpoint_keeps_the_agreed_time_and_those_of_earlier_versions_have_none():
    state = LoopState(step=4, time_fraction=0.25)
    assert LoopState.from_json(json.dumps(asdict(state))) == state
    assert LoopState.from_json('{"step": 4}').time_fraction == 0


def test_loader_processes_outlive_an_epoch_and_still_augment_by_its_number(make_config):
    here, there = (
        Batches(make_config("loaders", data={"num_workers": num_workers}), rank=0, world_size=1)
        for num_workers in (0, 1)
    )
    processes = set()
    for epoch in (0, 1, 0):
        expected = [batch["frames"] for batch in here.epoch(epoch)]
        found = [batch["frames"] for batch in there.epoch(epoch)]
        assert len(found) == 2
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
        processes |= {worker.pid for worker in there.train_loader._iterator._workers}
    assert len(processes) == 1
