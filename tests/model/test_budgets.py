"""The model keeps to the paper's Table X: Swin-B, 384 px, one clip of five frames, MACs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sdavs_model import Ablation, SDAVSConfig, build_model

SWIN_B = "swin_base_patch4_window12_384"


def cost(backbone: str = SWIN_B, **ablation) -> tuple[float, float]:
    """Trainable parameters without VGGish in millions, and MACs in billions."""
    with torch.device("meta"):
        model = build_model(SDAVSConfig(backbone=backbone, ablation=Ablation(**ablation))).eval()
        frames, log_mel = torch.empty(1, 5, 3, 384, 384), torch.empty(1, 5, 1, 96, 64)
    vggish = sum(p.numel() for p in model.audio_encoder.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(frames, log_mel)
    return (sum(p.numel() for p in model.parameters()) - vggish) / 1e6, counter.get_total_flops() / 2e9


@pytest.fixture(scope="module")
def full() -> tuple[float, float]:
    return cost()


def test_the_full_swin_model_has_the_papers_size_and_macs(full):
    assert full[0] == pytest.approx(103.2, rel=0.02)
    assert full[1] == pytest.approx(300.9, rel=0.05)


def test_the_pvt_model_has_the_papers_size():
    assert cost("pvt_v2_b5")[0] == pytest.approx(97.8, rel=0.02)


def test_snrp_costs_parameters_but_almost_no_macs(full):
    params, macs = cost(snrp="none")
    assert full[0] - params == pytest.approx(2.62, rel=0.15)
    assert 0 <= full[1] - macs <= 0.3


def test_damf_costs_what_the_paper_says(full):
    params, macs = cost(damf=False)
    assert full[0] - params == pytest.approx(2.44, rel=0.15)
    assert full[1] - macs == pytest.approx(20.6, rel=0.25)


def test_without_stc_the_model_is_smaller_and_much_slower(full):
    params, macs = cost(stc=False)
    assert 0.05 <= full[0] - params <= 0.4
    assert macs >= 1.3 * full[1]


def test_residual_multiplication_is_free(full):
    params, macs = cost(rm="straight")
    assert params == full[0]
    assert abs(macs - full[1]) <= 0.1
