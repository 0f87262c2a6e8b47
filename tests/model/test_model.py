"""The model's public surface, its encoders and its refusals."""

import pytest
import torch

import sdavs_model
from sdavs_model import Ablation, SDAVSConfig, build_model
from sdavs_model.audio_control import swap_partners
from sdavs_model.encoders.vggish import VGGish
from sdavs_model.weights.read import read_weights

SMALL = {"backbone": "pvt_v2_b0", "image_size": 64, "width": 32, "num_heads": 4, "vggish_width": 0.125}
TINY = SMALL | {"backbone": "test_resnet", "image_size": 32}
"""Where the backbone does not matter."""
ABLATIONS = [
    {},
    {"snrp": "none"},
    {"snrp": "after"},
    {"channel_selector": False},
    {"spatial_selector": False},
    {"spatial_gate": "audio"},
    {"damf": False},
    {"direction": "av"},
    {"direction": "va"},
    {"stc": False},
    {"car": False},
    {"rm": "add"},
    {"rm": "straight"},
]


def clip(num_frames: int = 3, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(2, num_frames, 3, size, size, generator=generator)
    return frames, torch.randn(2, num_frames, 1, 96, 64, generator=generator)


@pytest.mark.parametrize(
    "ablation", ABLATIONS, ids=lambda a: ",".join(f"{k}={v}" for k, v in a.items()) or "full"
)
def test_every_ablation_maps_a_clip_to_logits_and_trains_all_its_parameters(ablation):
    torch.manual_seed(0)
    model = build_model(SDAVSConfig(**TINY, num_classes=2, ablation=Ablation(**ablation)))
    frames, log_mel = clip(size=32)
    logits = model(frames, log_mel)
    assert logits.shape == (2, 3, 2, 32, 32)
    masks = torch.randint(0, 2, (2, 3, 32, 32))
    sdavs_model.losses.segmentation_loss(logits, masks)["loss"].backward()
    starved = [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert starved == []


@torch.no_grad()
@pytest.mark.parametrize(
    "ablation", ABLATIONS, ids=lambda a: ",".join(f"{k}={v}" for k, v in a.items()) or "full"
)
def test_a_padded_clip_gives_the_logits_that_it_gives_alone(ablation):
    torch.manual_seed(0)
    model = build_model(SDAVSConfig(**TINY, ablation=Ablation(**ablation))).eval()
    frames, log_mel = clip(size=32)  # the second clip has two seconds and noise for padding
    logits = model(frames, log_mel, torch.tensor([[True, True, True], [True, True, False]]))
    torch.testing.assert_close(logits[:1], model(frames[:1], log_mel[:1]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits[1:, :2], model(frames[1:, :2], log_mel[1:, :2]), rtol=1e-4, atol=1e-5)
    assert not logits[1, 2].any()


def test_the_order_of_clips_in_a_batch_changes_nothing():
    torch.manual_seed(0)
    model = build_model(SDAVSConfig(**SMALL)).eval()
    frames, log_mel = clip()
    with torch.no_grad():
        torch.testing.assert_close(
            model(frames.flip(0), log_mel.flip(0)), model(frames, log_mel).flip(0), rtol=1e-4, atol=1e-5
        )


def test_frames_depend_only_on_their_own_clips_sound():
    torch.manual_seed(0)
    model = build_model(SDAVSConfig(**SMALL)).eval()
    frames, log_mel = clip()
    other = log_mel.clone()
    other[1] = torch.randn_like(other[1])
    with torch.no_grad():
        before, after = model(frames, log_mel), model(frames, other)
    torch.testing.assert_close(before[0], after[0], rtol=1e-4, atol=1e-5)
    assert (before[1] - after[1]).abs().max() > 1e-4


@pytest.mark.slow
def test_vggish_has_the_published_size_and_takes_the_public_names(tmp_path):
    vggish = VGGish()
    assert sum(p.numel() for p in vggish.parameters()) == 72_141_184
    names = [f"features.{i}.weight" for i in (0, 3, 6, 8, 11, 13)] + [
        f"embeddings.{i}.bias" for i in (0, 2, 4)
    ]
    assert set(names) <= set(vggish.state_dict())
    path = tmp_path / "vggish-10086976.pth"
    torch.save(vggish.state_dict(), path)
    loaded = VGGish(weights=read_weights(path, field="audio_weights"))
    assert torch.equal(loaded.embeddings[4].bias, vggish.embeddings[4].bias)


def test_weights_that_do_not_fit_are_refused_with_what_does_not_fit(tmp_path):
    path = tmp_path / "other.pth"
    state = VGGish(width=0.125).state_dict()
    del state["embeddings.4.bias"]
    torch.save(state, path)
    with pytest.raises(
        ValueError, match=r"audio_weights: .*other.pth does not fit: 1 missing: embeddings.4.bias"
    ):
        VGGish(weights=read_weights(path, field="audio_weights"))
    with pytest.raises(ValueError, match=r"backbone_weights: no such file: .*nowhere.pth"):
        build_model(SDAVSConfig(**SMALL, backbone_weights=str(tmp_path / "nowhere.pth")))


def test_backbone_weights_come_from_a_local_file(tmp_path):
    import timm

    torch.manual_seed(1)
    whole = timm.create_model("pvt_v2_b0", pretrained=False)
    path = tmp_path / "pvt_v2_b0.pth"
    torch.save(whole.state_dict(), path)
    model = build_model(SDAVSConfig(**SMALL, backbone_weights=str(path)))
    torch.testing.assert_close(
        model.visual_encoder.backbone.state_dict()["patch_embed.proj.weight"], whole.patch_embed.proj.weight
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": "pvt_v2_b9"}, r"backbone: .*pvt_v2_b9.*did you mean pvt_v2_b"),
        ({"image_size": 100}, r"image_size: 100 .*multiple of 32"),
        ({"width": 60, "num_heads": 8}, r"width: 60 .*multiple of 8"),
        ({"audio_window": "hour"}, r"audio_window: 'hour' .*second, official"),
        ({"vggish_width": 0.5, "audio_weights": "x.pth"}, r"audio_weights: .*vggish_width=1.0"),
    ],
)
def test_a_bad_config_is_refused_with_its_key_and_the_allowed_values(values, message):
    with pytest.raises(ValueError, match=message):
        SDAVSConfig(**values)


def test_a_backbone_without_four_stages_is_refused():
    with pytest.raises(ValueError, match=r"backbone: 'vit_tiny_patch16_224'"):
        build_model(SDAVSConfig(backbone="vit_tiny_patch16_224"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rm": "divide"}, r"rm: 'divide' .*multiply, add, straight"),
        ({"damf": False, "rm": "add"}, r"ablation.rm: has no effect without DAMF"),
        ({"stc": False, "car": False}, r"ablation.car: .*part of STC"),
        ({"channel_selector": False, "spatial_selector": False}, r"ablation.snrp: .*use snrp='none'"),
    ],
)
def test_a_contradictory_ablation_is_refused_with_a_reason(values, message):
    with pytest.raises(ValueError, match=message):
        Ablation(**values)


def test_a_config_survives_its_dict_and_misspelt_keys_do_not():
    config = SDAVSConfig(backbone="pvt_v2_b2", ablation=Ablation(rm="add"))
    assert SDAVSConfig.from_dict(config.to_dict()) == config
    with pytest.raises(
        ValueError, match=r"ablation.spacial_gate: unknown key; did you mean 'ablation.spatial_gate'"
    ):
        SDAVSConfig.from_dict({"ablation": {"spacial_gate": "audio"}})


def test_swapped_audio_never_comes_from_a_clip_with_the_same_sound():
    categories = ["dog", "dog+cat", "cat", "bird", ""]
    partners = swap_partners(categories)
    for own, partner in zip(categories, partners, strict=True):
        assert not set(own.split("+")) & (set(categories[partner].split("+")) - {""})
