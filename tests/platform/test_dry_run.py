"""`jobs/train.py --dry-run`: what a training would do, shown before anything is started."""

from pathlib import Path

import pytest
import torch
import yaml
from sdavs_platform.config.cli import load_config
from sdavs_platform.training.dry_run import describe, expected_memory, saved_bytes
from sdavs_platform.training.preflight import resolved

from sdavs_model import build_model

pytestmark = pytest.mark.slow


def test_it_shows_data_steps_resources_and_memory_and_starts_nothing(make_config):
    config = make_config("dry")
    before = set(Path(config.storage.uri).parent.rglob("*"))
    lines = [line for line in describe(config).splitlines() if line.startswith("# ")]
    shown = {line.split()[1]: line for line in lines[1:]}
    assert list(shown) == ["run", "data", "steps", "resources", "model", "memory"]
    assert shown["run"].endswith("dry, new")
    assert f"{config.data.train_split} " in shown["data"]
    assert f"{config.training.epochs} epochs of " in shown["steps"]
    assert f"{config.cluster.num_workers} workers of 1 CPU" in shown["resources"]
    assert set(Path(config.storage.uri).parent.rglob("*")) == before


def test_what_it_prints_is_a_config_file_of_the_same_run(make_config):
    config = make_config("dry")
    assert load_config([yaml.safe_load(describe(config))]) == resolved(config)


def test_bad_data_are_refused(make_config):
    config = make_config("dry")
    wrong = config.model_copy(update={"data": config.data.model_copy(update={"val_split": "vla"})})
    with pytest.raises(ValueError, match="vla"):
        describe(wrong)


def test_expected_memory_follows_zero_stage_and_number_format(make_config):
    config = make_config("dry")
    num_parameters = sum(p.numel() for p in build_model(config.model).parameters())

    def memory(stage: int, precision: str):
        changed = config.model_dump() | {
            "deepspeed": {"zero_stage": stage},
            "training": {**config.training.model_dump(), "precision": precision},
        }
        return expected_memory(type(config).model_validate(changed))

    workers = config.cluster.num_workers
    plain, sharded = memory(0, "fp32"), memory(3, "bf16")
    assert plain.weights == plain.gradients == 4 * num_parameters
    assert plain.optimizer == 8 * num_parameters
    assert sharded.weights == sharded.gradients == 2 * num_parameters / workers
    assert sharded.optimizer == 12 * num_parameters / workers
    assert sharded.activations < plain.activations


def test_activations_are_those_that_a_real_forward_pass_saves(make_config):
    config = make_config("dry").model
    model = build_model(config).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    side = config.image_size
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.randn(2, 3, 3, side, side), torch.randn(2, 3, 1, 96, 64))
    real = sum(storage.nbytes() for address, storage in saved.items() if address not in own)
    expected = saved_bytes(config, num_clips=2, num_frames=3, dtype=torch.float32)
    assert expected == pytest.approx(real, rel=0.02)
    twice = saved_bytes(config, num_clips=4, num_frames=3, dtype=torch.float32)
    assert twice == pytest.approx(2 * expected, rel=0.1)
    recomputed = saved_bytes(config, num_clips=2, num_frames=3, dtype=torch.float32, recomputes=True)
    assert 0.05 * expected < recomputed < 0.5 * expected
