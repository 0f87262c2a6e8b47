"""What is compared before weights leave a training: their predictions with the live engine's."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sdavs_platform.training.checkpoints.checkpoint import write_manifest
from sdavs_platform.training.export import Comparison, consolidate

from sdavs_model import SDAVSConfig, build_model

CONFIG = SDAVSConfig(backbone="test_convnext2", image_size=32, width=16, num_heads=2, vggish_width=0.125)
EXACT = 1e-3
"""The default of `training.consolidation_tolerance`."""


@pytest.fixture(scope="module")
def trained() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights, and a probe with their predictions."""
    torch.manual_seed(0)
    model = build_model(CONFIG).eval()
    frames, log_mel = torch.randn(2, 2, 3, 32, 32), torch.randn(2, 2, 1, 96, 64)
    with torch.inference_mode():
        logits = model(frames, log_mel)
    return model.state_dict(), {"frames": frames, "log_mel": log_mel, "logits": logits}


def checked(
    folder: Path,
    trained: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]],
    logits: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    tolerance: float = EXACT,
) -> Comparison:
    """Consolidate a ZeRO-0 checkpoint whose live engine has predicted `logits`."""
    weights, probe = trained
    (folder / "shards").mkdir()
    torch.save({"module": weights}, folder / "shards" / "mp_rank_00_model_states.pt")
    save_file(probe | {"logits": logits}, folder / "probe.safetensors")
    write_manifest(folder, rank=0, world_size=1)
    model, comparison = consolidate(folder, config=CONFIG, zero_stage=0, dtype=dtype, tolerance=tolerance)
    assert all(weights[name].equal(value) for name, value in model.state_dict().items())
    return comparison


def test_the_same_predictions_are_accepted(trained, tmp_path):
    found = checked(tmp_path, trained, trained[1]["logits"])
    assert found.difference < EXACT
    assert found.agreement == 1


@pytest.mark.parametrize(("tolerance", "is_accepted"), [(EXACT, False), (1e-2, True)])
def test_a_difference_as_of_tf32_needs_a_larger_tolerance(trained, tmp_path, tolerance, is_accepted):
    logits = trained[1]["logits"].clone()
    logits[0, 0, 0, 0, 0] += 6e-3 * logits.abs().max()
    if is_accepted:
        assert checked(tmp_path, trained, logits, tolerance=tolerance).difference == pytest.approx(
            6e-3, rel=0.1
        )
        return
    with pytest.raises(
        ValueError, match=r"predict differently .* on cpu; allowed: 1e-03, which .*--tolerance"
    ):
        checked(tmp_path, trained, logits, tolerance=tolerance)


def test_an_engine_in_bf16_is_compared_in_bf16(trained, tmp_path):
    model = build_model(CONFIG).eval()
    model.load_state_dict(trained[0])
    model.to(torch.bfloat16)
    probe = trained[1]
    with torch.inference_mode():
        logits = model(probe["frames"].bfloat16(), probe["log_mel"].bfloat16()).float()
    assert checked(tmp_path, trained, logits, dtype=torch.bfloat16).difference < 1e-4


def test_masks_that_do_not_agree_are_refused_however_small_the_logits(trained, tmp_path):
    logits = -trained[1]["logits"]
    logits[0, 0, 0, 0, 0] = 1e6
    with pytest.raises(ValueError, match="masks of the consolidated weights agree"):
        checked(tmp_path, trained, logits, tolerance=2.0)
