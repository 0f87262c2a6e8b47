"""Any timm backbone with stages of stride 4, 8, 16 and 32 works, whatever wrapper timm puts around it."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from sdavs_model import SDAVSConfig, build_model
from sdavs_model.encoders.visual import VisualEncoder, find_layout
from sdavs_model.weights.read import read_weights

SMALL = {"image_size": 64, "width": 16, "num_heads": 2, "vggish_width": 0.02}
# Parts of the names of a family's smaller models, which are quicker to build.
SMALLER = (
    "atto",
    "femto",
    "pico",
    "nano",
    "tiny",
    "xxs",
    "xs",
    "small",
    "mini",
    "_s",
    "_t",
    "b0",
    "m0",
    "s12",
)
# Its models take pictures of their own size alone.
ONE_SIZE = {"efficientformer": 224}


def one_of_each_family() -> dict[str, str]:
    families = {family: timm.list_models(module=family) for family in timm.list_modules()}
    return {
        family: next((name for part in SMALLER for name in names if part in name), names[0])
        for family, names in families.items()
    }


@pytest.mark.slow
def test_every_timm_family_with_such_stages_yields_four_maps_without_being_computed():
    found, refused = set(), {}
    for family, name in one_of_each_family().items():
        try:
            layout = find_layout(name, ONE_SIZE.get(family, 128))
        except ValueError as error:
            refused[family] = str(error)
            continue
        assert len(layout.indices) == len(layout.channels) == 4, name
        found.add(family)
    assert [reason for reason in refused.values() if "has stages of stride" not in reason] == []
    assert {"efficientnet", "hrnet", "mobilenetv3", "hardcorenas"} <= found  # wrappers without `output_fmt`
    assert {"dla", "tresnet", "vgg"} <= found  # more stages than timm lists
    assert {"hiera", "mvitv2", "twins"} <= found  # wrapped transformers
    assert len(found) >= 60
    assert {"vision_transformer", "levit", "nest"} <= set(refused)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "coatnet_pico_rw_224",
        "convnext_atto",
        "dla46_c",
        "hardcorenas_a",
        "hrnet_w18_small",
        "legacy_xception",
        "mambaout_femto",
        "mobilenetv3_small_050",
        "mvitv2_tiny",
        "repvit_m0_9",
        "resnet10t",
        "swin_tiny_patch4_window7_224",
        "tf_efficientnet_lite0",
    ],
)
def test_a_backbone_trains_inside_the_model(name):
    torch.manual_seed(0)
    model = build_model(SDAVSConfig(backbone=name, **SMALL))
    logits = model(torch.randn(2, 1, 3, 64, 64), torch.randn(2, 1, 1, 96, 64))
    assert logits.shape == (2, 1, 1, 64, 64)
    logits.square().sum().backward()
    first = next(iter(model.visual_encoder.parameters()))
    assert first.grad is not None
    assert torch.isfinite(first.grad).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["convnext_atto", "hiera_tiny_224", "mambaout_femto", "pvt_v2_b0", "tf_efficientnet_lite0"]
)
def test_weights_of_the_whole_classifier_are_found_by_the_features(name, tmp_path):
    torch.manual_seed(1)
    side = {"img_size": 64} if name.startswith("hiera") else {}
    whole = timm.create_model(name, **side).state_dict()
    save_file(whole, tmp_path / "whole.safetensors")
    weights = read_weights(tmp_path / "whole.safetensors", field="backbone_weights")
    encoder = VisualEncoder(config=SDAVSConfig(backbone=name, **SMALL), weights=weights)
    flat = {key.replace(".", "_"): value for key, value in whole.items()}
    for key, value in encoder.backbone.state_dict().items():
        assert torch.equal(value, flat[key.removeprefix("model.").replace(".", "_")]), key


def test_weights_of_another_backbone_are_refused(tmp_path):
    save_file(timm.create_model("resnet10t").state_dict(), tmp_path / "resnet.safetensors")
    weights = read_weights(tmp_path / "resnet.safetensors", field="backbone_weights")
    with pytest.raises(ValueError, match=r"backbone_weights: .*resnet.safetensors does not fit: \d+ missing"):
        VisualEncoder(config=SDAVSConfig(backbone="pvt_v2_b0", **SMALL), weights=weights)


def test_a_size_that_the_backbone_cannot_take_is_refused_before_anything_is_computed():
    with pytest.raises(ValueError, match=r"backbone: 'efficientformer_l1' does not support image_size=64: "):
        build_model(SDAVSConfig(backbone="efficientformer_l1", **SMALL))


def test_the_frames_are_normalised_as_the_backbones_weights_expect():
    lite = SDAVSConfig(backbone="tf_efficientnet_lite0", image_size=64).preprocess
    assert lite.mean == lite.std == (0.5, 0.5, 0.5)  # x / 127.5 - 1
    pvt = SDAVSConfig(backbone="pvt_v2_b0", image_size=64).preprocess
    recorded = timm.models.get_pretrained_cfg("pvt_v2_b0")
    assert recorded is not None
    assert (pvt.mean, pvt.std) == (recorded.mean, recorded.std)
