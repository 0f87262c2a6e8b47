"""A training whose encoders are frozen: only the rest has optimizer states and changes."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from sdavs_platform.tracking.client import mlflow_client
from sdavs_platform.tracking.registry import fetch
from sdavs_platform.training.engine import parameter_groups
from sdavs_platform.training.run import train

from sdavs_model import build_model, load_artifact
from sdavs_model.encoders.yamnet import YAMNet

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Made-up pretrained encoders whose running statistics no batch would give."""
    import timm

    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("weights")
    backbone = timm.create_model("tf_efficientnet_lite0").state_dict()
    for name in backbone:
        if name.endswith("running_mean"):
            backbone[name] = torch.full_like(backbone[name], 0.125)
    save_file(backbone, folder / "backbone.safetensors")
    save_file(YAMNet().state_dict(), folder / "yamnet.safetensors")
    return folder


@pytest.fixture(scope="module")
def config(make_config, weights):
    model = {
        "backbone": "tf_efficientnet_lite0",
        "backbone_weights": str(weights / "backbone.safetensors"),
        "freeze_backbone": True,
        "audio_encoder": "yamnet",
        "audio_weights": str(weights / "yamnet.safetensors"),
        "image_size": 64,
        "width": 16,
        "num_heads": 2,
        "vggish_width": 1.0,
    }
    return make_config(
        "frozen",
        model=model,
        training={"select_by": "listening"},
        data={
            "val_split": "test_strict",
            "test_splits": ["test_new_scenes"],
            "cache_features": True,
            "paired_sounds": True,
            "augment": {"window": 2},
        },
        tracking={"registered_model": "frozen"},
    )


def test_frozen_encoders_come_out_of_training_as_they_went_in(config, weights, tmp_path):
    trained = train(config)
    loaded = load_artifact(
        fetch(f"models:/frozen/{trained.model_version}", uri=config.tracking.uri, cache=tmp_path)
    )
    before = build_model(config.model).state_dict()
    after = loaded.model.state_dict()
    encoders = [name for name in before if name.startswith(("visual_encoder.", "audio_encoder."))]
    assert [name for name in encoders if not torch.equal(before[name], after[name])] == []
    assert torch.equal(
        after["audio_encoder.stem.weight"], load_file(weights / "yamnet.safetensors")["stem.weight"]
    )
    assert not torch.equal(before["decoder.fc.weight"], after["decoder.fc.weight"])
    assert loaded.lineage["weights"]["audio_weights"] == {"source": "file yamnet.safetensors"}
    run = mlflow_client(config.tracking.uri).get_run(trained.run_id)
    assert json.loads(run.data.tags["backbone_weights"]) == {"source": "file backbone.safetensors"}
    # What chose the checkpoint is in the run and in the model card.
    assert run.data.params["training.select_by"] == "listening"
    assert {"val/miou", "val/miou_swapped", "val/listening"} <= run.data.metrics.keys()
    scores = loaded.metrics["test_strict"]
    assert scores["listening"] == pytest.approx(2 * scores["miou"] - scores["miou_swapped"])


def test_the_optimizer_has_no_parameter_of_a_frozen_encoder(config):
    model = build_model(config.model)
    listed = {id(p) for group in parameter_groups(model, config.optimizer) for p in group["params"]}
    encoders = [*model.visual_encoder.parameters(), *model.audio_encoder.parameters()]
    assert not listed & {id(p) for p in encoders}
    assert listed == {id(p) for p in model.parameters() if p.requires_grad}
