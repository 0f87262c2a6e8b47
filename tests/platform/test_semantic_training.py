"""From AVSBench-semantic's layout to a registered model of many classes and its evaluation, on a real Ray cluster."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sdavs_platform.evaluation.registered_model import evaluate_registered, results_table
from sdavs_platform.tracking.client import mlflow_client
from sdavs_platform.tracking.registry import fetch
from sdavs_platform.training.run import TrainResult, train

from sdavs_model.data.core.clip_set import total_digest
from sdavs_model.data.datasets import open_splits
from sdavs_model.data.realav.build import RealAVConfig, prepare

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def avss(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RealAV in AVSS's layout, clips of five and ten seconds."""
    folder = tmp_path_factory.mktemp("avss")
    counts = {
        "num_train": 4,
        "num_val": 3,
        "num_test_new_scenes": 6,
        "num_test_strict": 6,
        "num_test_strict_wide": 0,
    }
    prepare(folder, RealAVConfig(**counts, size=32, subset="avss"))
    return folder


@pytest.fixture(scope="module")
def classes(avss: Path) -> list[str]:
    return list(json.loads((avss / "AVSBench_semantic" / "label2idx.json").read_text()))


@pytest.fixture(scope="module")
def make_semantic(make_config: Any, avss: Path, classes: list[str]) -> Any:
    def make(name: str, **model: Any) -> Any:
        sizes = {
            "backbone": "resnet10t",
            "image_size": 32,
            "width": 16,
            "num_heads": 2,
            "vggish_width": 0.125,
        }
        return make_config(
            name,
            data={"root": str(avss), "test_splits": ["test_new_scenes"]},
            model=sizes | {"num_classes": len(classes), "num_frames": 10} | model,
            training={"epochs": 1, "batch_size": 2, "log_every": 1},
            tracking={"registered_model": "sdavs-semantic"},
        )

    return make


@pytest.fixture(scope="module")
def trained(make_semantic: Any, cluster: None) -> TrainResult:
    return train(make_semantic("semantic"))


def test_a_model_of_many_classes_is_trained_registered_and_knows_their_names(
    trained, make_semantic, avss, classes, tmp_path
):
    assert set(trained.metrics) == {"val", "test_new_scenes"}
    assert all(0 <= value <= 1 for scores in trained.metrics.values() for value in scores.values())
    uri = make_semantic("semantic").tracking.uri
    card = json.loads(
        (
            fetch(f"models:/sdavs-semantic/{trained.model_version}", uri=uri, cache=tmp_path) / "sdavs.json"
        ).read_text()
    )
    assert card["classes"] == classes
    assert (card["lineage"]["data_kind"], card["lineage"]["protocol"]) == (
        "avsbench-avss",
        "semantic, official",
    )
    digests = {split: clips.digest for split, clips in open_splits(avss).items()}
    digest = total_digest({split: digests[split] for split in ("train", "val", "test_new_scenes")})
    client = mlflow_client(uri)
    tags = (
        client.get_run(trained.run_id).data.tags,
        client.get_model_version("sdavs-semantic", str(trained.model_version)).tags,
    )
    assert {card["lineage"]["data_digest"], *(tag["data_digest"] for tag in tags)} == {digest}


@pytest.mark.parametrize("mode", ["official", "corrected"])
def test_the_evaluation_names_protocol_and_mode_and_offers_no_constant_mask(
    trained, make_semantic, avss, mode
):
    report = evaluate_registered(
        f"models:/sdavs-semantic/{trained.model_version}",
        root=str(avss),
        splits=["test_new_scenes"],
        mode=mode,
        uri=make_semantic("semantic").tracking.uri,
    )
    rows = report["splits"]["test_new_scenes"]
    assert list(rows) == ["right audio", "muted audio", "swapped audio"]
    assert set(rows["right audio"]) == {"miou", "fscore", "miou_no_background"}
    if mode == "official":
        assert rows["right audio"] == pytest.approx(trained.metrics["test_new_scenes"], abs=1e-6)
    assert f"AVSBench-semantic: IoU and F per frame and class; {mode} figures" in results_table(report)


def test_a_model_with_another_number_of_classes_than_the_data_set_is_refused(make_semantic, classes):
    with pytest.raises(
        ValueError, match=rf"model\.num_classes: 1 .*\(avsbench-avss\); allowed: {len(classes)}"
    ):
        train(make_semantic("misfit", num_classes=1))


def test_a_model_is_not_scored_on_a_data_set_of_other_classes(
    trained, make_semantic, avss, classes, tmp_path
):
    shutil.copytree(avss, tmp_path, dirs_exist_ok=True)
    others = ["background", "zebra", *classes[2:]]
    names = tmp_path / "AVSBench_semantic" / "label2idx.json"
    names.write_text(json.dumps({name: index for index, name in enumerate(others)}))
    uri = make_semantic("semantic").tracking.uri
    with pytest.raises(
        ValueError, match=r"avsbench-avss has the classes background, zebra, .* the model predicts"
    ):
        evaluate_registered(f"models:/sdavs-semantic/{trained.model_version}", root=str(tmp_path), uri=uri)
