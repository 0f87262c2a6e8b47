"""The efficiency report: what is counted and timed, with or without the paper's figures, on disk and in MLflow."""

import json
from pathlib import Path

import pytest
from databases import mlflow_database
from PIL import Image
from sdavs_platform.benchmarks.efficiency import log_results, measure, results_table, write_results
from sdavs_platform.tracking.client import mlflow_client

from sdavs_model import budgets

pytestmark = pytest.mark.slow

SMALL = """
model: {backbone: pvt_v2_b0, image_size: 64, width: 32, num_heads: 4, vggish_width: 0.125, num_frames: 2}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(SMALL)
    return str(path)


@pytest.fixture(scope="module")
def report(config: str) -> dict:
    return measure(config=config, recipe_names=["full", "without_stc"], repeats=1)


def test_any_config_is_counted_and_timed_and_not_held_to_the_papers_limits(report):
    full, without_stc = report["rows"]
    assert (full["recipe"], without_stc["recipe"]) == ("full", "without_stc")
    assert without_stc["cost"]["macs"] > full["cost"]["macs"] > full["cost"]["backbone_macs"] > 0
    assert full["speed"]["frames_per_s"] == pytest.approx(2 / full["speed"]["clip_s"])
    assert full["speed"]["ratio"] > 1
    assert full["speed"]["cpu_ratio"] > 1
    assert full["paper"] is None
    assert full["checks"] == []


def test_the_papers_model_is_compared_with_table_x_and_its_limits():
    (row,) = measure(backbones=[budgets.PVT_B5], recipe_names=["full"], speed=False)["rows"]
    assert row["paper"]["frames_per_s"] == 32.25
    assert [check["within"] for check in row["checks"]] == [True]
    lines = results_table({"rows": [row]}).splitlines()
    line = next(line for line in lines if line.startswith("  full"))
    assert line.split()[1:3] == [f"{row['cost']['parameters'] / 1e6:.2f}", "97.80"]
    start = next(number for number, line in enumerate(lines) if line.startswith("parts of full"))
    parts = {line[:20].strip(): line.split()[-2:] for line in lines[start + 1 : start + 8]}
    assert parts["SNRP"] == ["2.63", f"{row['cost']['parts']['SNRP']['macs'] / 1e9:.2f}"]
    assert sum(float(parameters) for parameters, _ in parts.values()) == pytest.approx(97.5 + 72.14, abs=0.1)


def test_the_report_goes_to_a_folder_and_to_a_run_of_its_own(report, tmp_path: Path):
    write_results(report, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "efficiency.json").read_text()) == report
    assert Image.open(tmp_path / "out" / "efficiency.png").size == (1200, 750)
    uri = mlflow_database(tmp_path)
    run_id = log_results(report, uri=uri)
    run = mlflow_client(uri).get_run(run_id)
    assert run.info.status == "FINISHED"
    full = report["rows"][0]["cost"]
    assert run.data.metrics["pvt_v2_b0/full/macs_g"] == pytest.approx(full["macs"] / 1e9)
    assert {f.path for f in mlflow_client(uri).list_artifacts(run_id)} == {
        "efficiency.png",
        "efficiency.json",
    }


def test_what_cannot_be_measured_is_refused_with_the_flag():
    with pytest.raises(ValueError, match=r"--repeats: 0 is below 1"):
        measure(repeats=0)
    with pytest.raises(ValueError, match=r"recipe: no 'without_snpr'; did you mean without_snrp\?"):
        measure(recipe_names=["without_snpr"])
