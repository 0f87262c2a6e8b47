"""One pickle-free folder holds all that is needed to use a model, and a changed one is refused."""

import json
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdavs_model import SDAVSConfig, build_model, load_artifact, save_artifact
from sdavs_model.artifact import read_golden
from sdavs_model.ensemble import Ensemble
from sdavs_model.files import sha256_of
from sdavs_model.golden import golden_difference

CONFIG = SDAVSConfig(backbone="pvt_v2_b0", image_size=64, width=32, num_heads=4, vggish_width=0.125)


@pytest.fixture
def artifact(tmp_path):
    torch.manual_seed(0)
    model = build_model(CONFIG).eval()
    save_artifact(
        tmp_path / "m",
        model=model,
        classes=["silent", "sounding"],
        metrics={"val": 0.5},
        lineage={"run_id": "r"},
    )
    return model, tmp_path / "m"


def test_a_saved_model_comes_back_bit_for_bit_with_its_preprocessing(artifact):
    model, folder = artifact
    loaded = load_artifact(folder)
    frames, log_mel = torch.randn(1, 2, 3, 64, 64), torch.randn(1, 2, 1, 96, 64)
    with torch.no_grad():
        assert torch.equal(loaded.model(frames, log_mel), model(frames, log_mel))
    assert loaded.config == CONFIG
    assert loaded.preprocessor.config == CONFIG.preprocess
    assert (loaded.classes, loaded.metrics, loaded.lineage) == (
        ["silent", "sounding"],
        {"val": 0.5},
        {"run_id": "r"},
    )


@pytest.mark.parametrize("num_classes", [1, 3])
def test_an_ensemble_is_one_artifact_that_predicts_the_mean_of_its_members_probabilities(
    tmp_path, num_classes
):
    config = replace(CONFIG, num_classes=num_classes)
    members = [build_model(config).eval() for _ in range(2)]
    save_artifact(
        tmp_path,
        model=Ensemble(members).eval(),
        classes=["silent", "one", "two"][: max(num_classes, 2)],
        metrics={},
        lineage={},
    )
    loaded = load_artifact(tmp_path)
    assert golden_difference(loaded.model, loaded.preprocessor, read_golden(tmp_path)) == 0
    frames, log_mel = torch.randn(1, 3, 3, 64, 64), torch.randn(1, 3, 1, 96, 64)
    present = torch.tensor([[True, True, False]])
    with torch.no_grad():
        found = loaded.model(frames, log_mel, present)
        each = [member(frames, log_mel, present) for member in members]
    odds = [logits.sigmoid() if num_classes == 1 else logits.softmax(2) for logits in each]
    answer = found.sigmoid() if num_classes == 1 else found.softmax(2)
    torch.testing.assert_close(answer[:, :2], (sum(odds) / 2)[:, :2])
    assert not found[:, 2].any(), "padding"


def test_models_of_different_configs_make_no_ensemble():
    other = replace(CONFIG, width=16)
    with pytest.raises(ValueError, match="members: have different configs"):
        Ensemble([build_model(CONFIG), build_model(other)])


def test_an_artifact_of_an_earlier_version_loads_and_predicts_the_same(artifact):
    model, folder = artifact
    card = json.loads((folder / "sdavs.json").read_text())
    assert card["config"].pop("architecture") == "sdavs"
    for name in ("freeze_backbone", "audio_encoder", "audio_weights", "freeze_audio_encoder", "from_scratch"):
        del card["config"][name]
    del card["preprocess"]["log_offset"]
    card["config"]["vggish_weights"] = None
    card["frozen_vggish"] = True
    old_names = {"audio_queries": "audio_asks", "video_queries": "video_asks"}
    weights = load_file(folder / "model.safetensors")
    for new, old in old_names.items():
        assert any(f".{new}." in name for name in weights)
        weights = {name.replace(new, old): value for name, value in weights.items()}
    golden = load_file(folder / "golden.safetensors")
    del golden["waveforms"]
    save_file(golden, folder / "golden.safetensors")
    card["sha256"]["golden.safetensors"] = sha256_of(folder / "golden.safetensors")
    save_file(weights, folder / "model.safetensors")
    card["sha256"]["model.safetensors"] = sha256_of(folder / "model.safetensors")
    (folder / "sdavs.json").write_text(json.dumps(card))
    loaded = load_artifact(folder)
    assert not any(p.requires_grad for p in loaded.model.audio_encoder.parameters())
    assert loaded.preprocessor.config == CONFIG.preprocess
    assert [clip.name for clip in read_golden(folder).clips()] == ["standard clip"]
    frames, log_mel = torch.randn(1, 2, 3, 64, 64), torch.randn(1, 2, 1, 96, 64)
    with torch.no_grad():
        assert torch.equal(loaded.model(frames, log_mel), model(frames, log_mel))


def test_frozen_encoders_of_a_saved_model_stay_frozen(tmp_path):
    config = SDAVSConfig(
        backbone="tf_efficientnet_lite0",
        image_size=64,
        width=16,
        num_heads=2,
        audio_encoder="yamnet",
        freeze_backbone=True,
        freeze_audio_encoder=True,
    )
    save_artifact(tmp_path, model=build_model(config), classes=["silent", "sounding"], metrics={}, lineage={})
    loaded = load_artifact(tmp_path)
    assert loaded.model.visual_encoder.frozen
    assert loaded.model.audio_encoder.frozen
    assert (loaded.preprocessor.config.mean[0], loaded.preprocessor.config.log_offset) == (0.5, 0.001)


def test_golden_clips_distinguish_the_saved_model_from_another_one(artifact):
    _, folder = artifact
    loaded, golden = load_artifact(folder), read_golden(folder)
    assert golden_difference(loaded.model, loaded.preprocessor, golden) < 1e-5
    (clip,) = golden.clips()
    heard = loaded.preprocessor.log_mel(clip.waveform, clip.num_frames)
    assert torch.equal(heard, golden.log_mel[0]), "a model with the same preprocessing hears the same"
    torch.manual_seed(1)
    assert golden_difference(build_model(CONFIG), loaded.preprocessor, golden) > 0.1


def test_changed_golden_clips_are_refused(artifact):
    path = artifact[1] / "golden.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=r"golden.safetensors: sha256 .* which sdavs.json records"):
        read_golden(artifact[1])


def test_changed_weights_are_refused(artifact):
    _, folder = artifact
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.safetensors: sha256 .* which sdavs.json records"):
        load_artifact(folder)


def test_weights_other_than_the_registry_records_are_refused(artifact):
    with pytest.raises(ValueError, match="which the registry records"):
        load_artifact(artifact[1], sha256="0" * 64)


def test_a_pickle_in_the_folder_is_refused(artifact):
    (artifact[1] / "extra.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match=r"extra.pkl: refused"):
        load_artifact(artifact[1])


def test_missing_files_are_named(artifact, tmp_path):
    (artifact[1] / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model.safetensors: missing"):
        load_artifact(artifact[1])
    with pytest.raises(ValueError, match=r"sdavs.json: not a readable model card"):
        load_artifact(tmp_path)


def test_a_card_with_an_unknown_key_is_refused(artifact):
    card = json.loads((artifact[1] / "sdavs.json").read_text())
    card["config"]["wdith"] = 3
    (artifact[1] / "sdavs.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"wdith: unknown key; did you mean 'width'"):
        load_artifact(artifact[1])


def test_a_wrong_number_of_class_names_is_refused(tmp_path):
    with pytest.raises(ValueError, match="classes: 1 names for 2 mask values"):
        save_artifact(tmp_path, model=build_model(CONFIG), classes=["sounding"], metrics={}, lineage={})
