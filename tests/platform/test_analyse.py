"""The analyses as a user meets them: a registered model, a real data set, files, MLflow, and the job."""

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from databases import mlflow_database
from PIL import Image
from sdavs_platform.analysis.suite import NAMES, Request, analyse
from sdavs_platform.tracking import registry
from sdavs_platform.tracking.client import mlflow_client
from sdavs_platform.tracking.runs import TrainingRun

from sdavs_model import Ablation, SDAVSConfig, build_model, save_artifact
from sdavs_model.architectures.ddeseg.config import DDESegConfig
from sdavs_model.architectures.tpavi.config import TPAVIConfig

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TINY = SDAVSConfig(backbone="resnet10t", image_size=64, width=32, num_heads=2, vggish_width=0.125)
SPLIT = "test_strict"
SDAVS_NAMES = tuple(name for name in NAMES if name != "elimination")


@pytest.fixture(scope="module")
def registered(tmp_path_factory, make_config):
    """The address of a registry with untrained models: SDAVS with and without its parts, TPAVI, DDESeg."""
    uri = mlflow_database(tmp_path_factory.mktemp("analyse"))
    variants = {
        "full": TINY,
        "without-snrp": dataclasses.replace(TINY, ablation=Ablation(snrp="none")),
        "without-damf": dataclasses.replace(TINY, ablation=Ablation(damf=False)),
        "tpavi": TPAVIConfig(backbone="resnet10t", image_size=64, width=16, vggish_width=0.125),
        "ddeseg": DDESegConfig(
            backbone="resnet10t",
            image_size=64,
            audio_encoder="vggish",
            vggish_width=0.125,
            num_nearest=2,
            token_width=8,
            head_width=8,
            bank_classes=("bird", "dog", "horse"),
        ),
    }
    for name, config in variants.items():
        folder = tmp_path_factory.mktemp(name)
        run = TrainingRun.open(make_config(name), uri=uri, storage="nowhere", has_checkpoints=False)
        save_artifact(
            folder, model=build_model(config), classes=["background", "object"], metrics={}, lineage={}
        )
        registry.register_artifact(folder, name=name, config=config, run_id=run.run_id, tags={}, uri=uri)
    return uri


def test_a_version_is_tagged_with_its_architecture(registered):
    versions = [registry.resolve(f"models:/{name}/1", uri=registered) for name in ("full", "tpavi")]
    assert [version.tags["architecture"] for version in versions] == ["sdavs", "tpavi"]


def request(data, uri, **changes):
    values = {"model": "models:/full/1", "data": str(data), "split": SPLIT, "tracking_uri": uri}
    return Request(**values | {"names": NAMES} | changes)


@pytest.fixture(scope="module")
def analysed(registered, data, tmp_path_factory):
    """All analyses of the full model, run once: the results and the folder that holds theirs."""
    out = tmp_path_factory.mktemp("out")
    asked = request(data, registered, without_snrp="models:/without-snrp/1", out=str(out), limit=4)
    results, left_out = analyse(asked)
    assert list(left_out) == ["elimination"]
    return results, out


def test_every_analysis_leaves_numbers_rows_and_pictures(analysed):
    results, out = analysed
    assert tuple(results) == SDAVS_NAMES
    for name in SDAVS_NAMES:
        folder = out / f"{name}-full-1"
        report = json.loads((folder / "report.json").read_text())
        assert (report["model"], report["split"], report["num_clips"]) == ("models:/full/1", SPLIT, 4)
        rows = list(csv.DictReader((folder / "clips.csv").open()))
        assert len({row["clip"] for row in rows}) == 4
        assert (folder / "report.txt").read_text() == results[name].table + "\n"
        pictures = list(folder.glob("*.png"))
        assert pictures
        assert all(min(Image.open(picture).size) > 200 for picture in pictures)
    assert not list(out.glob(".*"))


def test_the_same_files_and_the_main_figures_lie_in_the_models_run(analysed, registered):
    run_id = registry.resolve("models:/full/1", uri=registered).run_id
    client = mlflow_client(registered)
    for name in SDAVS_NAMES:
        logged = {file.path for file in client.list_artifacts(run_id, f"analysis/{name}")}
        assert {f"analysis/{name}/report.json", f"analysis/{name}/clips.csv"} <= logged
    metrics = client.get_run(run_id).data.metrics
    assert metrics["analysis/consistency/after/js"] == analysed[0]["consistency"].metrics["after/js"]
    assert 0 <= metrics["analysis/listening/off-screen/false_sounding_rate"] <= 1


def test_noise_is_scored_with_and_without_snrp_on_a_whole_curve(analysed):
    scores = analysed[0]["noise"].numbers["scores"]
    assert list(scores) == ["with SNRP", "without SNRP"]
    for noise in ("brownian", "moving train"):
        assert {f"{noise} x 0.1", f"{noise} 10 dB", f"{noise} 0 dB", f"{noise} -10 dB"} < set(
            scores["with SNRP"]
        )
    alone = analysed[0]["listening"].numbers["conditions"]["right"]["miou"]
    assert scores["with SNRP"]["original audio"]["miou"] == pytest.approx(alone)


def test_the_false_sounding_rate_is_one_less_j_against_an_empty_ground_truth(analysed):
    conditions = analysed[0]["listening"].numbers["conditions"]
    sounds = ["right", "silence", "swapped", "off-screen", "noise only", "white noise"]
    assert list(conditions) == [*sounds, "deaf oracle"]
    assert conditions["silence"]["quiet_frames"] == conditions["off-screen"]["quiet_frames"] == 20
    assert conditions["right"]["quiet_frames"] < 20


def test_of_several_analyses_those_that_the_model_cannot_answer_for_are_left_out(registered, data, tmp_path):
    names = ("attention", "response", "consistency")
    asked = request(
        data, registered, model="models:/without-damf/1", names=names, out=str(tmp_path), limit=2, log=False
    )
    results, left_out = analyse(asked)
    assert list(results) == ["response"]
    assert list(left_out) == ["attention", "consistency"]
    assert "ablation.damf: false" in left_out["attention"]


def test_the_scores_of_elimination_are_compared_with_what_the_data_set_records(registered, data, tmp_path):
    asked = request(
        data,
        registered,
        model="models:/ddeseg/1",
        names=("elimination",),
        out=str(tmp_path),
        limit=6,
        log=False,
    )
    result = analyse(asked)[0]["elimination"]
    rows = list(csv.DictReader((tmp_path / "elimination-ddeseg-1" / "clips.csv").open()))
    assert len(rows) == 6 * 2 * 5 * 2  # clips, sounds, seconds, classes
    assert {row["where"] for row in rows if row["sound"] == "off-screen sound"} <= {"off screen", "silent"}
    assert list(result.numbers["auc"]) == ["hidden source", "another clip's sound", "class without sound"]
    silent = [row for row in rows if (row["sound"], row["where"]) == ("own sound", "silent")]
    assert result.numbers["auc"]["class without sound"]["classes"] == len(silent)
    assert 0 <= result.numbers["among_nearest"] <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "nope"}, "no split 'nope'; it has train, val"),
        ({"data": "/nowhere"}, "/nowhere: no such data folder"),
        ({"limit": 0}, "--limit: 0 is not allowed"),
        ({"level": 5}, "--level: 5 is not allowed"),
        ({"model": "models:/full/9"}, "models:/full/9: not in the registry"),
        ({"model": "full"}, "neither a folder nor models:/NAME"),
        ({"model": "models:/without-snrp/1", "names": ("maps",)}, "no SNRP to analyse"),
        (
            {"model": "models:/tpavi/1", "names": ("maps",)},
            "maps does not apply to tpavi; what does: noise, listening",
        ),
        (
            {"model": "models:/tpavi/1", "names": ("noise",), "without_snrp": "models:/without-snrp/1"},
            "models:/tpavi/1 is tpavi, not sdavs",
        ),
        ({"names": ("noise",), "without_snrp": "models:/full/1"}, "models:/full/1 has SNRP"),
        ({"names": ("noise",), "train_noise": "/nowhere.wav"}, "/nowhere.wav: no such sound file"),
    ],
)
def test_a_mistake_is_named(changes, message, registered, data, tmp_path):
    asked = request(data, registered, out=str(tmp_path), log=False)
    with pytest.raises(ValueError, match=message):
        analyse(dataclasses.replace(asked, **changes))
    assert not list(tmp_path.iterdir())


def test_the_job_analyses_a_bare_artifact_folder_and_prints_json(registered, data, tmp_path):
    folder = registry.fetch("models:/full/1", uri=registered, cache=tmp_path / "cache")
    command = [sys.executable, "jobs/analyse.py", "listening", "--model", str(folder), "--data", str(data)]
    command += ["--limit", "2", "--out", str(tmp_path / "out"), "--json"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert report["num_clips"] == 2
    assert "not logged, because a folder has no MLflow run" in ran.stderr
    assert len(list((tmp_path / "out").glob("listening-*/clips.csv"))) == 1
