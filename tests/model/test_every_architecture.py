"""What every architecture of the registry has to keep to; see docs/add_a_model.md."""

import copy
import json
from pathlib import Path

import pytest
import torch
import yaml

from sdavs_model import build_model, config_from_dict, load_artifact, save_artifact
from sdavs_model.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from sdavs_model.artifact import read_golden
from sdavs_model.compilation import compile_in_parts
from sdavs_model.config import ModelConfig
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.golden import golden_difference
from sdavs_model.recipes import recipes_of
from sdavs_model.training_step import training_loss

CONFIGS = Path(__file__).resolve().parents[2] / "jobs" / "configs"
SIZES = {"backbone": "pvt_v2_b0", "image_size": 64, "vggish_width": 0.125, "num_frames": 2}
# Smaller parts than by default, so that a model is built in a second.
SMALL = {
    "sdavs": {"width": 32, "num_heads": 4},
    "tpavi": {"width": 16},
    "ddeseg": {"audio_encoder": "vggish", "token_width": 16, "head_width": 16},
}

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def small(name: str, **changes) -> ModelConfig:
    return config_from_dict({"architecture": name, **SIZES, **SMALL.get(name, {}), **changes})


def clips(B: int, T: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return (
        torch.randn(B, T, 3, 64, 64, generator=generator),
        torch.randn(B, T, 1, 96, 64, generator=generator),
    )


@every_architecture
def test_logits_have_the_size_of_the_frames_and_any_number_of_them_is_taken(name):
    model = build_model(small(name, num_classes=3)).eval()
    with torch.no_grad():
        for T in (1, 3):
            assert model(*clips(2, T)).shape == (2, T, 3, 64, 64)


@pytest.mark.slow
@every_architecture
def test_compiled_parts_give_the_eager_logits_and_need_no_graph_for_other_numbers_of_clips_and_frames(name):
    from torch._dynamo.testing import CompileCounter  # seconds, in every process that collects the tests
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    model = build_model(small(name)).eval()
    eager = copy.deepcopy(model)
    graphs = CompileCounter()
    compile_in_parts(model, backend=graphs)
    num_graphs = []
    with torch.no_grad():
        # From 16 frames in all: torch chooses other convolutions for fewer.
        for B, T in ((4, 5), (6, 3)):
            torch.testing.assert_close(model(*clips(B, T)), eager(*clips(B, T)), rtol=1e-4, atol=1e-5)
            num_graphs.append(graphs.frame_count)
    assert num_graphs[0] == num_graphs[1] > 0
    assert not counters["graph_break"]


@every_architecture
def test_every_trained_parameter_gets_a_gradient_and_frozen_encoders_get_none(name):
    torch.manual_seed(0)
    model = build_model(small(name, num_classes=2, freeze_backbone=True, freeze_audio_encoder=True)).train()
    # Blocks that start as the identity pass no gradients on until they have been trained.
    for parameter in model.parameters():
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    frames, log_mel = clips(2, 2)
    batch = {
        "frames": frames,
        "log_mel": log_mel,
        "masks": torch.randint(0, 2, (2, 2, 64, 64)),
        "name": ["a", "b"],
    }
    training_loss(model, batch)["loss"].backward()
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert [key for key, p in trained.items() if p.grad is None or not torch.isfinite(p.grad).all()] == []
    assert trained
    assert not any(key.startswith(("visual_encoder.", "audio_encoder.")) for key in trained)
    assert not model.visual_encoder.training


@every_architecture
def test_a_padded_clip_gives_what_it_gives_alone(name):
    model = build_model(small(name)).eval()
    frames, log_mel = clips(2, 3)
    present = torch.tensor([[True, True, True], [True, False, False]])
    with torch.no_grad():
        logits = model(frames, log_mel, present)
        alone = model(frames[1:, :1], log_mel[1:, :1])
    torch.testing.assert_close(logits[1:, :1], alone, rtol=1e-4, atol=1e-5)
    assert not logits[1, 1:].any()


@every_architecture
def test_evaluation_is_deterministic_and_depends_on_the_sound(name):
    torch.manual_seed(0)
    model = build_model(small(name)).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    frames, log_mel = clips(1, 2)
    with torch.no_grad():
        logits = model(frames, log_mel)
        assert torch.equal(logits, model(frames, log_mel))
        assert not torch.allclose(logits, model(frames, log_mel.flip(-1)))


@every_architecture
def test_the_keys_that_shape_the_weights_are_keys(name):
    config = small(name)
    assert {*ModelConfig.weight_keys} <= {*config.weight_keys} <= {*config.to_dict()}


@every_architecture
def test_the_parts_of_a_model_are_all_of_it(name):
    model = build_model(small(name))
    named = [id(p) for modules in model.parts().values() for module in modules for p in module.parameters()]
    assert len(named) == len(set(named))
    assert set(named) == {id(p) for p in model.parameters()}
    assert {id(p) for p in model.backbone_parameters()} <= set(named)


@every_architecture
def test_an_artifact_names_its_architecture_and_comes_back(name, tmp_path):
    model = build_model(small(name)).eval()
    card = save_artifact(tmp_path, model=model, classes=["silent", "sounding"], metrics={}, lineage={})
    assert json.loads((tmp_path / "sdavs.json").read_text())["config"]["architecture"] == name
    assert config_from_dict(card["config"]) == model.config
    loaded = load_artifact(tmp_path)
    assert type(loaded.model) is type(model)
    assert golden_difference(loaded.model, loaded.preprocessor, read_golden(tmp_path)) < 1e-5


@every_architecture
def test_golden_clips_of_any_other_model_can_be_put_to_it(name, tmp_path):
    """A rollout compares two versions on the golden clips of one, whatever network and encoders the other has."""
    donor = small("sdavs", image_size=96, num_frames=3)
    save_artifact(
        tmp_path, model=build_model(donor).eval(), classes=["silent", "sounding"], metrics={}, lineage={}
    )
    (clip,) = read_golden(tmp_path).clips()
    model = build_model(small(name, audio_encoder="yamnet", vggish_width=1.0)).eval()
    preprocessor = Preprocessor(model.config.preprocess)
    with torch.no_grad():
        logits = model(
            preprocessor.frames(clip.frames)[None],
            preprocessor.log_mel(clip.waveform, clip.num_frames)[None],
        )
    assert logits.shape == (1, 3, 1, 64, 64)


@every_architecture
def test_recipes_keep_the_base_and_have_a_sentence_each(name):
    book, base = recipes_of(name), small(name)
    assert book.build(book.reference, base).backbone == "pvt_v2_b0"
    assert all((recipe.__doc__ or "").strip() for recipe in book.recipes.values())
    assert {recipe for table in book.tables.values() for recipe in table} <= set(book.recipes)
    assert set(book.tables) <= set(book.titles)


@every_architecture
def test_the_demo_has_a_config_for_it(name):
    suffix = "" if name == DEFAULT_ARCHITECTURE else f"_{name}"
    config = yaml.safe_load((CONFIGS / f"demo{suffix}.yaml").read_text())
    assert config_from_dict(config["model"]).architecture == name


def test_a_config_without_an_architecture_is_sdavs_and_an_unknown_one_is_refused():
    assert config_from_dict({"width": 64}).architecture == "sdavs"
    with pytest.raises(ValueError, match=r"architecture: no 'tpvai'; did you mean tpavi\?"):
        config_from_dict({"architecture": "tpvai"})
    with pytest.raises(ValueError, match=r"ablation: unknown key; .*allowed: architecture, backbone"):
        config_from_dict({"architecture": "tpavi", "ablation": {}})


def test_an_artifact_of_an_architecture_that_this_version_does_not_have_is_refused(tmp_path):
    model = build_model(small("tpavi")).eval()
    save_artifact(tmp_path, model=model, classes=["silent", "sounding"], metrics={}, lineage={})
    card = tmp_path / "sdavs.json"
    card.write_text(card.read_text().replace('"architecture": "tpavi"', '"architecture": "avsegformer"'))
    with pytest.raises(
        ValueError, match=r"sdavs.json: config.architecture: no 'avsegformer'; .*sdavs, ddeseg, tpavi"
    ):
        load_artifact(tmp_path)


@every_architecture
def test_modules_with_parameters_of_their_own_return_tensors(name):
    """ZeRO-3 gathers them for the backward pass only if it finds tensors in what the module returned."""
    model = build_model(small(name))
    others = []

    def look(module, inputs, output):
        parts = output if isinstance(output, tuple | list) else [output]
        if not all(isinstance(part, torch.Tensor) for part in parts):
            others.append(type(module).__name__)

    for module in model.modules():
        if [*module.parameters(recurse=False)]:
            module.register_forward_hook(look)
    model(*clips(1, 2))
    assert others == []
