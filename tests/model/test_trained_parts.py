"""A trained model without its encoders: written small, joined with the same encoders, refused with others."""

import dataclasses
import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from sdavs_model import SDAVSConfig, build_model, load_artifact, save_artifact
from sdavs_model.encoders.yamnet import YAMNet
from sdavs_model.files import sha256_of
from sdavs_model.trained_parts import ENCODERS, load_parts, read_parts, write_parts

NAMES = {"backbone_weights": "efficientnet_lite0.imagenet", "audio_weights": "yamnet.audioset"}


def keep(folder, name: str, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """Made-up weights under a name of the catalogue, with their record."""
    save_file(tensors, folder / f"{name}.safetensors")
    record = {
        "name": name,
        "sha256": sha256_of(folder / f"{name}.safetensors"),
        "licence": "Apache-2.0",
        "trained_on": "noise",
    }
    (folder / f"{name}.json").write_text(json.dumps(record))
    return record


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An artifact as a training on frozen encoders leaves it, and the folder of the encoders' weights."""
    torch.manual_seed(0)
    weights, folder = tmp_path_factory.mktemp("weights"), tmp_path_factory.mktemp("artifact")
    config = SDAVSConfig(
        backbone="tf_efficientnet_lite0", image_size=64, width=16, num_heads=2, audio_encoder="yamnet"
    )
    backbone = timm.create_model("tf_efficientnet_lite0").state_dict()
    records = {
        "backbone_weights": keep(weights, NAMES["backbone_weights"], backbone),
        "audio_weights": keep(weights, NAMES["audio_weights"], YAMNet().state_dict()),
    }
    paths = {key: str(weights / f"{name}.safetensors") for key, name in NAMES.items()}
    frozen = {"freeze_backbone": True, "freeze_audio_encoder": True}
    model = build_model(dataclasses.replace(config, **paths, **frozen))
    save_artifact(
        folder,
        model=model.eval(),
        classes=["background", "sounding object"],
        metrics={"val": {"miou": 0.5}},
        lineage={"run_id": "r", "weights": records},
    )
    return load_artifact(folder), weights


def test_the_joined_model_predicts_what_the_whole_one_predicts(trained, tmp_path):
    loaded, weights = trained
    path = tmp_path / "parts.safetensors"
    write_parts(path, loaded)
    joined, card = load_parts(path, weights_folder=weights)
    assert card.metrics == {"val": {"miou": 0.5}}
    assert card.lineage["run_id"] == "r"
    frames, log_mel = torch.randn(1, 2, 3, 64, 64), torch.randn(1, 2, 1, 96, 64)
    with torch.inference_mode():
        expected, got = loaded.model(frames, log_mel), joined(frames, log_mel)
    assert (got - expected).abs().max() < 5e-3 * expected.abs().max()
    state = loaded.model.state_dict()
    for name, value in joined.state_dict().items():
        if name.startswith(ENCODERS):
            assert torch.equal(value, state[name]), name


def test_the_file_holds_no_encoder_and_two_bytes_a_weight(trained, tmp_path):
    loaded, _ = trained
    path = tmp_path / "parts.safetensors"
    write_parts(path, loaded)
    own = sum(p.numel() for name, p in loaded.model.named_parameters() if not name.startswith(ENCODERS))
    assert 2 * own < path.stat().st_size < 2 * own + 60_000
    assert read_parts(path)[0].config.backbone_weights == NAMES["backbone_weights"]


def test_other_encoders_than_those_of_the_training_are_refused(trained, tmp_path):
    loaded, weights = trained
    path = tmp_path / "parts.safetensors"
    write_parts(path, loaded)
    for name in NAMES.values():
        for suffix in (".json", ".safetensors"):
            (tmp_path / f"{name}{suffix}").write_bytes((weights / f"{name}{suffix}").read_bytes())
    torch.manual_seed(1)
    keep(tmp_path, NAMES["audio_weights"], YAMNet().state_dict())
    with pytest.raises(ValueError, match=r"was trained on yamnet.audioset with sha256 .*, but .* has"):
        load_parts(path, weights_folder=tmp_path)
    with pytest.raises(ValueError, match=r"model.backbone_weights: .* is not in .*fetch"):
        load_parts(path, weights_folder=tmp_path / "empty")


def test_a_model_whose_encoders_were_trained_has_no_parts_of_its_own(trained, tmp_path):
    loaded, _ = trained
    free = dataclasses.replace(loaded.config, freeze_backbone=False)
    with pytest.raises(ValueError, match=r"model\.freeze_backbone"):
        write_parts(tmp_path / "x.safetensors", dataclasses.replace(loaded, config=free))
    unnamed = {"weights": {"backbone_weights": {"source": "file mine.pth"}}}
    with pytest.raises(ValueError, match=r"jobs/prepare_weights\.py list"):
        write_parts(tmp_path / "x.safetensors", dataclasses.replace(loaded, lineage=unnamed))


def test_what_is_no_file_of_parts_is_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="not a readable file of a model's parts"):
        read_parts(tmp_path / "x.safetensors")
