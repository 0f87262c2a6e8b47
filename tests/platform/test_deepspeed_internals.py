"""One contract a function of `deepspeed_internals`: what an upgrade of DeepSpeed may not change unnoticed."""

import os
import subprocess
import sys
from pathlib import Path
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
    model = {"backbone": "test_convnext2", "image_size": 32, "width": 16, "num_heads": 2}
    model["freeze_backbone"] = True
    lives = []
    for stage in STAGES:
        config = make_config(
            f"zero{stage}",
            model=model,
            data={"augment": {"window": 2}},
            deepspeed={"zero_stage": stage},
            training={"batch_size": 4},
        )
        lives.append(
            {
                "name": f"zero{stage}",
                "config": config.model_dump(mode="json"),
                "steps": (0, 1),
                "load": None,
                "save": (1, str(folder / f"zero{stage}")),
            }
        )
        (folder / f"zero{stage}").mkdir()
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


def test_on_cpu_deepspeed_compiles_no_collective_and_comes_without_mlflow():
    program = (
        "import sys; from sdavs_platform.deepspeed_internals import import_deepspeed, skip_compiled_collective; "
        "import_deepspeed(); from deepspeed.comm.torch import build_shm_op; "
        "skip_compiled_collective(); print('mlflow' in sys.modules, build_shm_op())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | GROUP,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "False None"


def test_an_optimizer_without_a_loss_scale_has_scale_1():
    class Engine:
        optimizer = torch.optim.SGD([torch.zeros(1)])

    assert deepspeed_internals.loss_scale(Engine()) == 1
