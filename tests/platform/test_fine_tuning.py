"""Trainings that start from another model's weights: where these come from, what has to fit, what stays frozen."""

import copy
import dataclasses
import logging
from typing import Any

import pytest
import torch
from sdavs_platform.storage.filesystem import Storage
from sdavs_platform.tracking.client import mlflow_client
from sdavs_platform.tracking.registry import promote, register_artifact
from sdavs_platform.tracking.runs import TrainingRun
from sdavs_platform.training.fine_tuning import (
    check_frozen_parts,
    freeze_parts,
    head_of,
    load_start,
    prepare_start,
)

from sdavs_model import build_model, save_artifact
from sdavs_model.architectures.ddeseg.config import DDESegConfig
from sdavs_model.architectures.tpavi.config import TPAVIConfig

SIZES = {"backbone": "test_convnext2", "image_size": 32, "width": 16, "num_heads": 2}


@pytest.fixture(scope="module")
def tiny(make_config: Any) -> Any:
    def make(name: str, **changes: Any) -> Any:
        return make_config(name, **({"model": SIZES} | changes))

    return make


@pytest.fixture(scope="module")
def source(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An artifact of the tiny model, in a folder and registered as champion."""
    config = tiny("source")
    torch.manual_seed(11)
    model = build_model(config.model).eval()
    folder = tmp_path_factory.mktemp("artifact")
    client = mlflow_client(config.tracking.uri)
    run_id = client.create_run(client.create_experiment("fine-tuning")).info.run_id
    classes = ["background", "sounding"]
    save_artifact(folder, model=model, classes=classes, metrics={}, lineage={"run_id": run_id})
    version = register_artifact(
        folder, name="tiny", config=config.model, run_id=run_id, tags={}, uri=config.tracking.uri
    )
    promote("tiny", version, uri=config.tracking.uri)
    return {"folder": folder, "model": model, "run_id": run_id}


def started(config: Any) -> torch.nn.Module:
    """The model of a worker."""
    torch.manual_seed(12)
    model = build_model(config.model)
    load_start(model, config)
    return model


@pytest.mark.parametrize("form", ["models:/tiny@champion", "models:/tiny/1", "folder", "file"])
def test_a_training_starts_from_the_weights_of_a_registered_model_or_an_artifact(tiny, source, form):
    address = {"folder": str(source["folder"]), "file": f"{source['folder']}/model.safetensors"}.get(
        form, form
    )
    config = tiny("tuned", start={"from": address})
    lineage = prepare_start(config, has_checkpoints=False)
    expected = "models:/tiny/1" if form.startswith("models:") else str(source["folder"])
    assert lineage == {"start_from": expected, "start_run_id": source["run_id"]}
    weights = started(config).state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in source["model"].state_dict().items())
    # A resume reads where the training came from, wherever the alias points by then.
    moved = tiny("tuned", start={"from": "models:/tiny@gone"})
    assert prepare_start(moved, has_checkpoints=True) == lineage


def test_weights_that_do_not_fit_are_refused_with_the_key_that_makes_the_difference(tiny, source):
    config = tiny("wider", model=SIZES | {"width": 32}, start={"from": str(source["folder"])})
    with pytest.raises(ValueError, match=r"start.from: .* does not fit .*model.width is 32, there 16"):
        prepare_start(config, has_checkpoints=False)
    with pytest.raises(ValueError, match=r"neither a checkpoint .* nor a model artifact"):
        prepare_start(tiny("none", start={"from": "/nowhere"}), has_checkpoints=False)


def test_other_classes_get_a_new_head_which_is_logged(tiny, source, caplog, monkeypatch):
    from sdavs_platform.training import fine_tuning

    @dataclasses.dataclass
    class Split:
        source: Any

    @dataclasses.dataclass
    class Clips:
        classes: tuple[str, ...] = ("background", "cat", "dog")

    monkeypatch.setattr(fine_tuning, "open_split", lambda config, split: Split(Clips()))
    config = tiny("animals", model=SIZES | {"num_classes": 3}, start={"from": str(source["folder"])})
    with caplog.at_level(logging.INFO):
        prepare_start(config, has_checkpoints=False)
    head = head_of(config.model)
    assert head
    assert all(name.startswith("decoder.") for name in head)
    assert (
        f"it has other classes (3 mask values instead of 2); starting from random weights: {', '.join(sorted(head))}"
        in (caplog.text)
    )
    weights = started(config).state_dict()
    for name, value in source["model"].state_dict().items():
        assert name in head or torch.equal(value, weights[name])


def test_a_bank_made_of_other_data_is_not_taken_over(tiny, tmp_path):
    """DDESeg: the classes that a bank has are those of the training's own data."""
    sizes = {"backbone": "test_convnext2", "image_size": 32, "vggish_width": 0.125, "audio_encoder": "vggish"}
    parts = {"num_nearest": 2, "token_width": 8, "head_width": 8}
    torch.manual_seed(13)
    other = build_model(DDESegConfig(**sizes, **parts, bank_classes=("bell", "cat", "dog"))).eval()
    save_artifact(tmp_path, model=other, classes=["background", "sounding"], metrics={}, lineage={})
    own = DDESegConfig(**sizes, **parts, bank_classes=("owl", "pig"))
    config = tiny("other-bank", start={"from": str(tmp_path)}).model_copy(update={"model": own})
    prepare_start(config, has_checkpoints=False)
    weights = started(config).state_dict()
    assert weights["bank"].shape == (2, 5, 128)
    assert all(
        torch.equal(value, weights[name]) for name, value in other.state_dict().items() if name != "bank"
    )


def test_weights_of_another_architecture_are_refused_with_the_key(tiny, tmp_path):
    other = build_model(
        TPAVIConfig(backbone="test_convnext2", image_size=32, width=16, vggish_width=0.125)
    ).eval()
    save_artifact(tmp_path, model=other, classes=["background", "sounding"], metrics={}, lineage={})
    config = tiny("other-architecture", start={"from": str(tmp_path)})
    with pytest.raises(
        ValueError,
        match=r"start.from: .* does not fit the model: .*model.architecture is 'sdavs', there 'tpavi'",
    ):
        prepare_start(config, has_checkpoints=False)


def test_the_id_of_a_run_means_its_registered_model(tiny, source):
    first = tiny("first", tracking={"registered_model": "tiny"})
    uri, storage = first.tracking.uri, first.storage.uri
    run = TrainingRun.open(first, uri=uri, storage=storage, has_checkpoints=False)
    run.set_finished_result(checkpoint="gone", version=1, metrics={})
    config = tiny("second", start={"from": run.run_id})
    assert prepare_start(config, has_checkpoints=False)["start_from"] == "models:/tiny/1"
    assert Storage(storage, field="storage.uri").exists("second/start/model.safetensors")


def test_frozen_parts_stay_as_they_are_and_misspelt_ones_are_refused(tiny):
    config = tiny("frozen-parts", training={"freeze": ["decoder", "levels.0", "visual_encoder"]})
    check_frozen_parts(config)
    model = build_model(config.model)
    freeze_parts(model, config.training.freeze)
    replica = copy.deepcopy(model).train()
    assert replica.training
    for part in ("decoder", "levels.0", "visual_encoder"):
        frozen = replica.get_submodule(part)
        assert not any(module.training for module in frozen.modules())
        assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert replica.levels[1].training
    with pytest.raises(ValueError, match=r"training.freeze: no part 'decodr'; did you mean decoder"):
        check_frozen_parts(tiny("misspelt", training={"freeze": ["decodr"]}))
