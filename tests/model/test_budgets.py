"""The model keeps to the paper's Table X: Swin-B, 384 px, one clip of five frames, MACs."""

import pytest

from sdavs_model import SDAVSConfig, budgets, recipes
from sdavs_model.benchmark import Cost, cost

pytestmark = pytest.mark.slow


def costs(recipe: str, backbone: str = budgets.SWIN_B) -> tuple[float, float]:
    """Trainable parameters without VGGish in millions, and MACs in billions."""
    found = cost(recipes.build(recipe, SDAVSConfig(backbone=backbone)))
    return found.parameters / 1e6, found.macs / 1e9


@pytest.fixture(scope="module")
def full() -> tuple[float, float]:
    return costs("full")


def test_the_full_swin_model_has_the_papers_size_and_macs(full):
    assert full[0] == pytest.approx(103.2, rel=0.02)
    assert full[1] == pytest.approx(300.9, rel=0.05)


def test_the_pvt_model_has_the_papers_size():
    assert costs("full", budgets.PVT_B5)[0] == pytest.approx(97.8, rel=0.02)


def test_snrp_costs_parameters_but_almost_no_macs(full):
    params, macs = costs("without_snrp")
    assert full[0] - params == pytest.approx(2.62, rel=0.15)
    assert 0 <= full[1] - macs <= 0.3


def test_damf_costs_as_much_as_in_the_paper(full):
    params, macs = costs("without_damf")
    assert full[0] - params == pytest.approx(2.44, rel=0.15)
    assert full[1] - macs == pytest.approx(20.6, rel=0.25)


def test_without_stc_the_model_is_smaller_and_much_slower(full):
    params, macs = costs("without_stc")
    assert 0.05 <= full[0] - params <= 0.4
    assert macs >= 1.3 * full[1]


def test_residual_multiplication_is_free(full):
    params, macs = costs("rm_straight")
    assert params == full[0]
    assert abs(macs - full[1]) <= 0.1


def test_the_checks_say_which_bounds_hold():
    def made_up(parameters_m: float, macs_g: float) -> Cost:
        return Cost(
            parameters=int(parameters_m * 1e6),
            audio_encoder_parameters=0,
            macs=int(macs_g * 1e9),
            backbone_macs=0,
            parts={},
        )

    found = {"full": made_up(103.2, 330.0), "without_snrp": made_up(100.6, 329.9)}
    swin = SDAVSConfig(backbone=budgets.SWIN_B)
    in_full = {c.quantity: c.within for c in budgets.checks(swin, "full", found)}
    assert in_full == {"parameters, M": True, "MACs, G": False}
    assert all(check.within for check in budgets.checks(swin, "without_snrp", found))
    assert budgets.paper_row(SDAVSConfig(backbone=budgets.SWIN_B, image_size=224), "full") is None
