"""One contract a function of `deepspeed_internals`: what an upgrade of DeepSpeed may not change unnoticed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from running import GROUP
from sdavs_platform import deepspeed_internals
from sdavs_platform.training.checkpoints.reshape import full_state_dict, reshape_shards
from worker_group import run_group

pytestmark = pytest.mark.slow

STAGES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def saved(make_config: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of two workers with a frozen backbone after one step, in a folder a stage."""
    folder = tmp_path_factory.mktemp("shards")
    buckets = {f"zero{stage}": {"zero_stage": stage} for stage in STAGES}
    # More gradients than a bucket holds: DeepSpeed's own reduction.
    buckets |= {f"zero{stage}-buckets": {"zero_stage": stage, "bucket_size": 1000} for stage in (1, 2)}
    model = {"backbone": "test_convnext2", "image_size": 32, "width": 16, "num_heads": 2}
    model["freeze_backbone"] = True
    lives = []
    for name, deepspeed in buckets.items():
        config = make_config(
            name,
            model=model,
            data={"augment": {"window": 2}},
            deepspeed=deepspeed,
            training={"batch_size": 4},
        )
        lives.append(
            {
                "name": name,
                "config": config.model_dump(mode="json"),
                "steps": (0, 1),
                "load": None,
                "save": (1, str(folder / name)),
            }
        )
        (folder / name).mkdir()
    run_group(2, lives, folder)
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_shards_are_found_by_worker_and_named_after_it(saved, stage):
    folder = saved / f"zero{stage}" / "shards"
    models = [path.name for path in deepspeed_internals.model_shards(folder)]
    optimizers = deepspeed_internals.optimizer_shards(folder)
    assert len(models) == (2 if stage == 3 else 1)
    assert len(optimizers) == (2 if stage else 0)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*models, *(path.name for path in optimizers)]
    )
    for rank, path in enumerate(optimizers):
        assert deepspeed_internals.shard_name(optimizers[0], rank) == path.name
    assert {path.suffix for path in folder.parent.rglob("*") if path.is_file()} == {".json", ".safetensors"}


@pytest.mark.parametrize("stage", STAGES[1:])
def test_an_optimizer_shard_keeps_flat_weights_and_moments_of_each_parameter_group(saved, stage):
    folder = saved / f"zero{stage}" / "shards"
    shapes = deepspeed_internals.load_shard(deepspeed_internals.model_shards(folder)[0])["param_shapes"]
    totals = [0] * len(shapes)
    shards = deepspeed_internals.optimizer_shards(folder)
    for path in shards:
        state = deepspeed_internals.load_shard(path)["optimizer_state_dict"]
        assert deepspeed_internals.zero_stage_of(state) == stage
        weights, optimizer = deepspeed_internals.shard_keys(state)
        assert len(state[weights]) == len(state[optimizer]["state"]) == len(shapes)
        for index, group in enumerate(state[weights]):
            assert group.dim() == 1
            assert group.dtype == torch.float32
            # Weights or moments may lack the padding at the end.
            assert abs(len(group) - len(state[optimizer]["state"][index]["exp_avg"])) < 64
            totals[index] += len(group)
    if stage < 3:
        # All shards together hold a group's weights, and at most the padding that makes them equally long.
        for total, group_shapes in zip(totals, shapes, strict=True):
            needed = sum(shape.numel() for shape in group_shapes.values())
            assert needed <= total < needed + deepspeed_internals.ALIGNMENT * len(shards)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_shards_become_the_weights_that_deepspeed_itself_makes_of_them(saved, stage, tmp_path):
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    folder = saved / f"zero{stage}" / "shards"
    (tmp_path / "shards").mkdir()
    for path in [*deepspeed_internals.model_shards(folder), *deepspeed_internals.optimizer_shards(folder)]:
        torch.save(deepspeed_internals.load_shard(path), tmp_path / "shards" / f"{path.stem}.pt")
    found = full_state_dict(folder, zero_stage=stage)
    theirs = get_fp32_state_dict_from_zero_checkpoint(str(tmp_path), tag="shards")
    if stage > 1:  # in stage 1 it leaves out what is not trained
        assert found.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(found[name], theirs[name])] == []


def test_a_pickled_shard_that_would_run_code_is_refused(tmp_path):
    torch.save({"module": {}, "optimizer": print}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(ValueError, match=r"model_states\.pt: refused; a pickle of more than"):
        deepspeed_internals.load_shard(tmp_path / "mp_rank_00_model_states.pt")


def test_all_stages_hold_the_same_whole_model_in_fp32(saved):
    whole = {stage: full_state_dict(saved / f"zero{stage}" / "shards", zero_stage=stage) for stage in STAGES}
    for stage in STAGES[1:]:
        assert whole[stage].keys() == whole[0].keys()
        for name, tensor in whole[stage].items():
            torch.testing.assert_close(tensor, whole[0][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_model_with_a_frozen_part_stays_whole_for_two_then_one_then_three_workers(saved, stage, tmp_path):
    source = saved / f"zero{stage}"
    whole = full_state_dict(source / "shards", zero_stage=stage)
    for world_size in (1, 3):
        target = tmp_path / str(world_size)
        (target / "shards").mkdir(parents=True)
        for rank in range(world_size):
            reshape_shards(source / "shards", target / "shards", rank=rank, world_size=world_size)
        found = full_state_dict(target / "shards", zero_stage=stage)
        assert found.keys() == whole.keys()
        assert [name for name in whole if not torch.equal(whole[name], found[name])] == []
        source = target
    model = deepspeed_internals.load_shard(deepspeed_internals.model_shards(source / "shards")[-1])
    frozen = model[deepspeed_internals.FROZEN_FRAGMENTS] or {}
    assert all(name.startswith("visual_encoder.") for name in frozen)
    if stage == 3:
        # The last of three workers holds no more than its third of each weight.
        shapes = model[deepspeed_internals.FROZEN_SHAPES]
        assert frozen.keys() == shapes.keys()
        assert all(len(part) == -(-shapes[name].numel() // 3) for name, part in frozen.items())
        assert frozen


@pytest.mark.parametrize("stage", [1, 2])
def test_gradients_that_are_reduced_at_once_are_those_that_deepspeed_reduces_in_buckets(saved, stage):
    results = json.loads((saved / "rendezvous-zero0.json").read_text())
    at_once, in_buckets = saved / f"zero{stage}", saved / f"zero{stage}-buckets"
    assert results[at_once.name]["norms"] == pytest.approx(results[in_buckets.name]["norms"])
    pairs = [
        *zip(
            deepspeed_internals.optimizer_shards(at_once / "shards"),
            deepspeed_internals.optimizer_shards(in_buckets / "shards"),
            strict=True,
        )
    ]
    assert len(pairs) == 2
    for paths in pairs:
        one, other = (deepspeed_internals.load_shard(path)["optimizer_state_dict"] for path in paths)
        weights, optimizer = deepspeed_internals.shard_keys(one)
        for index, group in enumerate(one[weights]):
            torch.testing.assert_close(group, other[weights][index], rtol=1e-5, atol=1e-7)
            for name in ("exp_avg", "exp_avg_sq"):
                moment, expected = (each[optimizer]["state"][index][name] for each in (one, other))
                assert moment.any()
                torch.testing.assert_close(moment, expected, rtol=1e-4, atol=1e-9)


def test_only_fp32_gradients_that_fit_into_one_bucket_are_reduced_at_once():
    def is_taken(**changes: Any) -> bool:
        known = {"single_partition_of_fp32_groups": [], "dtype": torch.float32, "cpu_offload": False}
        known |= {"bit16_groups_flat": [torch.zeros(3)], "reduce_bucket_size": 3}
        return deepspeed_internals.reduce_at_once(
            SimpleNamespace(optimizer=SimpleNamespace(**known | changes))
        )

    assert not is_taken(reduce_bucket_size=2)
    assert not is_taken(dtype=torch.bfloat16)
    assert not is_taken(cpu_offload=True)
    assert not deepspeed_internals.reduce_at_once(
        SimpleNamespace(optimizer=torch.optim.SGD([torch.zeros(1)]))
    )


def test_on_cpu_deepspeed_compiles_no_collective_and_comes_without_mlflow_and_torchs_compiler():
    program = (
        "import sys\n"
        "from sdavs_platform.deepspeed_internals import *\n"
        "import_deepspeed(); skip_compiled_muon(); from deepspeed.comm.torch import build_shm_op\n"
        "skip_compiled_collective(); from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam\n"
        "print(sorted({'mlflow', 'torch._inductor.compile_fx'} & sys.modules.keys()), build_shm_op())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | GROUP,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[] None"


def test_an_optimizer_without_a_loss_scale_has_scale_1():
    class Engine:
        optimizer = torch.optim.SGD([torch.zeros(1)])

    assert deepspeed_internals.loss_scale(Engine()) == 1
