"""Every ZeRO stage, saved and resumed by as many workers and by another number."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sdavs_platform.deepspeed_internals import load_shard, optimizer_shards
from sdavs_platform.state_files import read_state
from sdavs_platform.training.checkpoints.reshape import reshape_shards
from sdavs_platform.training.export import consolidate
from worker_group import run_group

from sdavs_model.files import sha256_of

pytestmark = pytest.mark.slow

STAGES = (0, 1, 2, 3)
EARLIER = ("zero0", "zero3", "offload")
"""Resumed from a checkpoint as earlier versions wrote it; see `lives`."""
# fp32 sums of other lengths, in another order, through AdamW's normalised updates.
TOLERANCE = 2e-3


@pytest.fixture(scope="module")
def tiny(make_config: Any) -> Any:
    """The smallest model without batch normalisation in its backbone, on two seconds of 8 clips in batches of 4."""

    def make(name: str, **deepspeed: Any) -> dict[str, Any]:
        training = {"batch_size": 4, "precision": "fp32"} | deepspeed.pop("training", {})
        model = {"backbone": "test_convnext2", "image_size": 32, "width": 16, "num_heads": 2}
        config = make_config(
            name,
            model=model,
            data={"augment": {"window": 2}},
            deepspeed=deepspeed,
            optimizer={"warmup_steps": 0, "milestones": [0.3], "gamma": 0.5},
            training=training,
            cluster={"num_workers": [1, 2]},
        )
        return config.model_dump(mode="json")

    return make


@pytest.fixture(scope="module")
def lives(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By stage and life: 4 undisturbed steps of two workers, two an epoch, and the same in parts; see `run_group`.

    Stages 0 to 2 also average the weights, and stage 1 accumulates gradients.
    resumed: the last 3 steps by two new workers; elastic: steps 2 and 3 by one worker, step 4 by two again.
    """
    folder = tmp_path_factory.mktemp("elastic")
    options: dict[int, dict[str, Any]] = {
        0: {"ema": 0.5},
        1: {"ema": 0.5, "accumulate": 2},
        2: {"ema": 0.5},
        3: {},
    }
    # DeepSpeed looks a bucket ahead in stage 3: a small one makes this test faster.
    buckets: dict[int, dict[str, Any]] = {3: {"bucket_size": 1000}}
    stages = {
        f"zero{stage}": tiny("elastic", zero_stage=stage, training=options[stage], **buckets.get(stage, {}))
        for stage in STAGES
    }
    kinds = stages | {
        "bf16": tiny("elastic", zero_stage=2, training={"precision": "bf16", "ema": 0.5}),
        "offload": tiny("elastic", zero_stage=2, offload_optimizer=True, training={"ema": 0.5}),
    }

    def planned(
        part: str,
        steps: tuple[int, int],
        *,
        of: dict[str, Any],
        load: int | None = None,
        save: int | None = None,
    ) -> list[dict[str, Any]]:
        return [
            {
                "name": f"{kind}-{part}",
                "config": config,
                "steps": steps,
                "load": load and str(folder / kind / str(load)),
                "save": save and (save, str(folder / kind / str(save))),
            }
            for kind, config in of.items()
        ]

    for kind in kinds:
        for step in (1, 3):
            (folder / kind / str(step)).mkdir(parents=True)
    results = run_group(2, planned("whole", (0, 4), of=kinds, save=1), folder)
    for kind in EARLIER:
        as_an_earlier_version_saved_on_gpus(folder / kind / "1")
    poisoned = [life | {"poisoned": 1, "validates": True} for life in planned("poisoned", (0, 3), of=kinds)]
    results |= run_group(2, poisoned, folder)
    results |= run_group(1, planned("alone", (1, 3), of=stages, load=1, save=3), folder)
    again = planned("resumed", (1, 4), of=kinds, load=1) + planned("again", (3, 4), of=stages, load=3)
    return results | run_group(2, again, folder) | {"folder": folder, "configs": kinds}


def as_an_earlier_version_saved_on_gpus(folder: Path) -> None:
    """Let the states of a checkpoint be pickles, as they were, whose tensors say that they were on the fourth GPU,
    which no test machine has."""
    states = {file: load_shard(file) for file in folder.glob("shards/*.safetensors")}
    states |= {file: read_state(file) for file in folder.glob("worker-*.safetensors")}
    with pytest.MonkeyPatch.context() as patch:
        for file, state in states.items():
            patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:3")
            torch.save(state, file.with_suffix(".pt"))
            patch.undo()
            if torch.cuda.device_count() < 4:
                with pytest.raises(RuntimeError, match="CUDA"):
                    torch.load(file.with_suffix(".pt"), weights_only=False)
            file.unlink()
    for manifest in folder.glob("manifest-*.json"):
        content = json.loads(manifest.read_text()) | {"format": 2}
        files = [folder / name for name in content["files"]]
        files = [file.with_suffix(".pt") if file in states else file for file in files]
        content["files"] = {
            file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
            for file in files
        }
        manifest.write_text(json.dumps(content))


@pytest.mark.parametrize("kind", [*(f"zero{stage}" for stage in STAGES), "bf16", "offload"])
def test_every_stage_resumes_to_the_last_bit_with_as_many_workers(lives, kind):
    whole, resumed = lives[f"{kind}-whole"], lives[f"{kind}-resumed"]
    assert resumed["losses"] == whole["losses"][1:]
    assert resumed["after"] == whole["after"]
    assert resumed["averaged"] == whole["averaged"]


@pytest.mark.parametrize("kind", [*(f"zero{stage}" for stage in STAGES), "bf16", "offload"])
def test_gradients_that_are_not_finite_leave_the_weights_and_the_schedule_continues(lives, kind):
    whole, poisoned = lives[f"{kind}-whole"], lives[f"{kind}-poisoned"]
    assert poisoned["applied"] == [True, False, True]
    assert poisoned["rates"] == whole["rates"][:3]
    assert poisoned["losses"][:2] == whole["losses"][:2]
    assert poisoned["losses"][2] != whole["losses"][2]
    assert math.isfinite(poisoned["after"])
    assert poisoned["norms"][0] == whole["norms"][0] > 0
    assert not math.isfinite(poisoned["norms"][1])


@pytest.mark.parametrize("stage", STAGES)
def test_two_workers_validate_three_clips_in_every_stage_to_the_same_scores(lives, stage):
    scores = lives[f"zero{stage}-poisoned"]["scores"]
    assert scores == pytest.approx(lives["zero0-poisoned"]["scores"], rel=TOLERANCE)
    assert 0 <= scores["miou"] <= 1


@pytest.mark.parametrize("kind", [f"zero{stage}" for stage in STAGES])
def test_two_workers_then_one_then_two_follow_the_undisturbed_loss_curve(lives, kind):
    whole, alone, again = (lives[f"{kind}-{part}"] for part in ("whole", "alone", "again"))
    elastic = whole["losses"][:1] + alone["losses"] + again["losses"]
    assert elastic == pytest.approx(whole["losses"], rel=TOLERANCE)
    # It is a curve of learning: of one and the same batch, since steps see different ones.
    assert again["after"] == pytest.approx(whole["after"], rel=TOLERANCE)
    assert max(whole["after"], again["after"]) < whole["before"]
    assert again["averaged"] == (whole["averaged"] and pytest.approx(whole["averaged"], rel=TOLERANCE))


@pytest.mark.parametrize("stage", [1, 2])
def test_workers_that_accumulate_or_partition_gradients_train_and_average_as_those_that_do_neither(
    lives, stage
):
    found, plain = lives[f"zero{stage}-whole"], lives["zero0-whole"]
    assert found["losses"] == pytest.approx(plain["losses"], rel=TOLERANCE)
    assert found["norms"] == pytest.approx(plain["norms"], rel=TOLERANCE)
    assert found["averaged"] == pytest.approx(plain["averaged"], rel=TOLERANCE)


@pytest.mark.parametrize("kind", ["zero0", "zero1", "zero2", "zero3"])
def test_the_checkpoint_of_every_stage_becomes_one_set_of_weights(lives, kind):
    from sdavs_platform.config.tree import RunConfig

    config = RunConfig.model_validate(lives["configs"][kind])
    _, found = consolidate(
        lives["folder"] / kind / "1",
        config=config.model,
        zero_stage=config.deepspeed.zero_stage,
        dtype=torch.float32,
        tolerance=1e-4,
    )
    assert found.difference < 1e-4
    assert found.agreement == 1


@pytest.mark.parametrize("stage", [1, 3])
def test_shards_of_two_workers_cut_for_three_and_then_for_one_lose_nothing(lives, stage, tmp_path):
    two = lives["folder"] / f"zero{stage}" / "1" / "shards"
    three, direct, by_way_of_three = (tmp_path / name for name in ("three", "direct", "by_way_of_three"))
    for folder, source, world_size in ((three, two, 3), (direct, two, 1), (by_way_of_three, three, 1)):
        folder.mkdir()
        for rank in range(world_size):
            reshape_shards(source, folder, rank=rank, world_size=world_size)
    # One worker's shard has no padding, whose content DeepSpeed leaves to chance.
    (name,) = (path.name for path in optimizer_shards(direct))
    assert _tensors(direct / name) == _tensors(by_way_of_three / name)


def test_no_file_of_a_checkpoint_is_a_pickle(lives):
    files = [path for path in (lives["folder"] / "zero2" / "1").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}


def _tensors(path: Path) -> list[float]:
    """Sums of what matters in a shard: its weights and moments."""
    shard = load_shard(path)["optimizer_state_dict"]
    weights = shard.get("fp32_flat_groups") or shard["single_partition_of_fp32_groups"]
    states = (shard.get("optimizer_state_dict") or shard["base_optimizer_state"])["state"]
    moments = [value for state in states.values() for value in state.values()]
    return [float(tensor.detach().double().square().sum()) for tensor in [*weights, *moments]]
