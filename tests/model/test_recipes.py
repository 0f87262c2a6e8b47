"""The paper's ablation tables as recipes: resolved config and size of each are pinned."""

import dataclasses
import re

import pytest
import torch

import sdavs_model
from sdavs_model import Ablation, SDAVSConfig, build_model, recipes

BOOK = recipes.recipes_of("sdavs")

# Changes to the full model's ablation, and parameters without VGGish of the Swin-B model.
GOLDEN: dict[str, tuple[dict, int]] = {
    "full": ({}, 103_165_693),
    "without_snrp": ({"snrp": "none"}, 100_531_609),
    "without_damf": ({"damf": False}, 100_715_741),
    "without_cfs": ({"channel_selector": False}, 101_849_853),
    "without_sfs": ({"spatial_selector": False}, 101_847_449),
    "snrp_before_fusion": ({}, 103_165_693),
    "snrp_after_fusion": ({"snrp": "after"}, 103_165_693),
    "only_av": ({"direction": "av"}, 102_101_757),
    "only_va": ({"direction": "va"}, 102_101_757),
    "without_stc": ({"stc": False}, 102_843_645),
    "rm_multiply": ({}, 103_165_693),
    "rm_add": ({"rm": "add"}, 103_165_693),
    "rm_straight": ({"rm": "straight"}, 103_165_693),
    "without_car": ({"car": False}, 102_900_989),
    "figure_spatial_gate": ({"spatial_gate": "audio"}, 103_459_645),
}


def test_every_recipe_is_listed_in_the_order_of_the_papers_tables():
    assert sdavs_model.recipes.list() == [*GOLDEN]
    assert {name for table in BOOK.tables.values() for name in table} <= set(GOLDEN)
    assert all(BOOK.recipes[name].__doc__ for name in GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_recipe_resolves_to_its_pinned_config_and_size(name):
    changes, size = GOLDEN[name]
    config = recipes.build(name)
    assert config.ablation == dataclasses.replace(Ablation(), **changes)
    with torch.device("meta"):
        model = build_model(config)
    vggish = sum(p.numel() for p in model.audio_encoder.parameters())
    assert sum(p.numel() for p in model.parameters()) - vggish == size


def test_a_recipe_keeps_the_backbone_and_sizes_of_its_base():
    base = SDAVSConfig(backbone="pvt_v2_b0", image_size=96, width=64)
    assert recipes.build("rm_add", base) == dataclasses.replace(base, ablation=Ablation(rm="add"))


def test_an_unknown_recipe_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"recipe: no 'without_snpr'; did you mean without_snrp\?"):
        recipes.build("without_snpr")


def test_the_papers_figures_are_the_same_as_data_and_in_the_docstrings():
    for name, recipe in BOOK.recipes.items():
        number = r"(\d+(?:\.\d+)?)"
        written = re.findall(rf"(S4|MS3) {number} / {number} / {number}", recipe.__doc__)
        assert {where: (float(j), float(f)) for where, j, f, _ in written} == BOOK.published.get(name, {})
