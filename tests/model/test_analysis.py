"""Analyses of a real model, of every recipe: they leave the model unchanged and find its parts."""

import dataclasses

import pytest
import torch

from sdavs_model import SDAVSConfig, build_model, recipes
from sdavs_model.analysis.clip_scores import score_clip
from sdavs_model.analysis.consistency import LevelConsistency, level_streams
from sdavs_model.analysis.damf_attention import AUDIO_QUERIES, VIDEO_QUERIES, damf_maps
from sdavs_model.analysis.feature_maps import snrp_maps
from sdavs_model.analysis.hooks import record_calls
from sdavs_model.analysis.snrp_gates import snrp_responses
from sdavs_model.metrics import ObjectMetrics

BASE = SDAVSConfig(backbone="resnet10t", image_size=64, width=32, num_heads=2, vggish_width=0.125)


def tiny(recipe="full", num_classes=1):
    torch.manual_seed(0)
    config = dataclasses.replace(recipes.build(recipe, BASE), num_classes=num_classes)
    return build_model(config).eval()


@pytest.fixture(scope="module")
def clip():
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(1, 2, 3, 64, 64, generator=generator),
        torch.randn(1, 2, 1, 96, 64, generator=generator),
    )


def test_analysing_changes_neither_the_logits_nor_the_model(clip):
    model = tiny()
    with torch.no_grad():
        before = model(*clip)
    maps, attention = snrp_maps(model, *clip), damf_maps(model, *clip)
    level_streams(model, *clip)
    snrp_responses(model, *clip)
    with torch.no_grad():
        assert torch.equal(model(*clip), before)
    assert torch.allclose(maps.logits, before[:, :, 0])
    assert torch.equal(attention.logits, before[:, :, 0])
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_maps_of_all_levels_have_the_levels_sizes(clip):
    model = tiny()
    maps = snrp_maps(model, *clip)
    assert [tuple(level.grad_cam["before"].shape) for level in maps.levels.values()] == [
        (1, 2, side, side) for side in (16, 8, 4, 2)
    ]
    attention = damf_maps(model, *clip).levels
    for level in attention.values():
        for name in (AUDIO_QUERIES, VIDEO_QUERIES):
            assert torch.allclose(level[name].sum((-2, -1)), torch.ones(1, 2))


def test_grad_cam_cannot_see_a_channel_selector_and_the_feature_maps_can(clip):
    for level in snrp_maps(tiny(), *clip).levels.values():
        before, after = level.grad_cam["before"], level.grad_cam["after CFS"]
        assert torch.allclose(before, after, rtol=1e-3, atol=1e-6 * float(before.max()) + 1e-12)
        assert not torch.allclose(level.features["before"], level.features["after CFS"], rtol=1e-3)


def test_the_shown_attention_is_the_one_that_the_model_computes(clip):
    model = tiny()
    attention = model.levels[1].damf.audio_queries
    parts = {"q": attention.query, "kv": attention.key_value, "out": attention.out}
    with torch.no_grad(), record_calls(parts) as calls:
        model(*clip)
    heads = (calls["q"].output, *calls["kv"].output.chunk(2, dim=-1))
    q, k, v = (x.unflatten(-1, (2, -1)).transpose(1, 2) for x in heads)
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
    assert torch.allclose((weights @ v).transpose(1, 2).flatten(2), calls["out"].args[0], atol=1e-5)
    shown = damf_maps(model, *clip).levels["2"][AUDIO_QUERIES]
    assert torch.allclose(weights.mean((1, 2)), shown.flatten(0, 1).flatten(1), atol=1e-6)


@pytest.mark.parametrize("recipe", recipes.list())
def test_every_recipe_is_analysed_or_refused_with_the_missing_part(recipe, clip):
    model = tiny(recipe)
    ablation = model.config.ablation
    if ablation.snrp == "none":
        for look in (snrp_maps, snrp_responses):
            with pytest.raises(ValueError, match="no SNRP to analyse"):
                look(model, *clip)
    else:
        responses = snrp_responses(model, *clip)
        assert (responses["1"].channel_gate is None) == (not ablation.channel_selector)
        assert (responses["1"].spatial_gate is None) == (not ablation.spatial_selector)
        assert all(map(torch.isfinite, snrp_maps(model, *clip).levels["1"].grad_cam["before"].flatten()))
    if not ablation.damf:
        for look in (damf_maps, level_streams):
            with pytest.raises(ValueError, match="no DAMF to analyse"):
                look(model, *clip)
    else:
        shown = damf_maps(model, *clip).levels["1"]
        assert (AUDIO_QUERIES in shown) == (ablation.direction in ("both", "av"))
        assert (VIDEO_QUERIES in shown) == (ablation.direction in ("both", "va"))
        level = LevelConsistency()
        clip_values = level.update(level_streams(model, *clip)["1"])
        assert 0 <= clip_values["after"]["js"] <= 0.7
        assert 0 <= level.cka()["before"] <= 1


def test_a_clips_scores_equal_the_metrics_and_a_semantic_model_counts_all_its_classes(clip):
    frames, log_mel = clip
    model = tiny()
    masks = (torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(1)) > 0.5).long()
    item = {"frames": frames[0], "masks": masks, "valid": torch.tensor([True, True])}
    score = score_clip(model, item, {"right": log_mel[0]}, device="cpu")["right"]
    metrics = ObjectMetrics()
    with torch.no_grad():
        metrics.update(model(frames, log_mel)[0, :, 0], masks)
    assert metrics.compute() == pytest.approx({"miou": score.miou, "fscore": score.fscore}, abs=1e-6)
    others = score_clip(model, item, {"silence": log_mel[0] * 0, "right": log_mel[0]}, device="cpu")
    assert torch.equal(others["right"].probability, score.probability)
    assert not torch.equal(others["silence"].probability, score.probability)
    semantic = tiny(num_classes=4)
    with torch.no_grad():
        sounding = 1 - semantic(frames, log_mel).softmax(2)[0, :, 0]
    found = score_clip(semantic, item, {"right": log_mel[0]}, device="cpu")["right"].probability
    assert torch.allclose(found, sounding, atol=1e-5)
