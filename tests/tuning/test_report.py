"""The report of a sweep in a browser, without a network."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import records
import yaml
from sdavs_platform.config.cli import load_config
from sdavs_platform.tuning.report.build import build_report
from sdavs_platform.tuning.report.comparison import compare, interval
from sdavs_platform.tuning.report.summary import summarize
from sdavs_platform.tuning.store import SweepStore
from waiting import patience

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    store = records.study_store(folder)
    return store, build_report(store, folder=folder / "page")


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    store = records.search_store(folder)
    return store, build_report(store, folder=folder / "page")


def opened(browser, path, width):
    page = browser.new_page(viewport={"width": width, "height": 900}, offline=True)
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: problems.append(r.url) if r.url.startswith("http") else None)
    page.set_default_timeout(patience(120_000))
    page.goto(path.as_uri())
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert not problems
    return page


@pytest.mark.slow
def test_the_bootstrap_interval_covers_the_true_mean_and_narrows_with_clips():
    rng = np.random.default_rng(1)
    wide = interval(rng.normal(-0.05, 0.1, (3, 30)))
    narrow = interval(rng.normal(-0.05, 0.1, (3, 3000)))
    assert wide[0] < -0.05 < wide[1]
    assert narrow[0] < -0.05 < narrow[1] < 0
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 4


def test_pairing_finds_a_small_difference_that_hides_in_the_spread_of_the_clips():
    clips = np.random.default_rng(2).uniform(0, 1, 200)
    full = {seed: clips.tolist() for seed in (0, 1)}
    variant = {seed: (clips - 0.01).tolist() for seed in (0, 1)}
    found = compare(variant, full)
    assert found.is_clear
    assert found.difference == pytest.approx(-0.01)
    assert compare(full, None).difference is None


def test_the_shipped_study_says_which_effects_its_intervals_show_and_which_they_do_not(tmp_path):
    store = records.effects_store(tmp_path)
    page = build_report(store, folder=tmp_path / "page")
    summary = summarize(store)
    assert len(summary.trials) == 25
    for table in summary.tables:
        rows = {row.recipe: row for row in table.rows}
        assert list(rows) == ["full", "without_snrp", "without_damf", "only_av", "only_va"]
        assert rows["without_snrp"].miou.difference == pytest.approx(-0.06, abs=0.01)
        assert rows["without_damf"].gap.difference == pytest.approx(-0.05, abs=0.01)
        assert (rows["only_av"].miou.num_seeds, rows["only_av"].miou.num_assets) == (5, 19)
    text = (page.parent / "report.md").read_text()
    assert "over seeds and the photographs and recordings that clips are composed of" in text
    shown = "the interval excludes 0 for {}; it includes 0, so that no effect is shown, for {}."
    for split in records.SPLITS:
        right = shown.format("without_snrp", "without_damf, only_av, only_va")
        assert f"- {split}, J: {right}" in text
        gap = shown.format("without_snrp, without_damf", "only_av, only_va")
        assert f"- {split}, J - J swapped: {gap}" in text
    html = page.read_text()
    assert (
        html.count(f"test_strict, J: {shown.format('without_snrp', 'without_damf, only_av, only_va')}") == 1
    )


def test_clips_of_few_photographs_widen_the_interval_and_count_as_independent_where_nothing_is_recorded():
    rng = np.random.default_rng(3)
    photo = np.repeat(rng.normal(0, 0.1, 5), 40)  # 200 clips of five photographs, whose effects differ
    full = {seed: np.full(200, 0.5).tolist() for seed in (0, 1)}
    variant = {seed: (0.5 + photo + rng.normal(0, 0.01, 200)).tolist() for seed in (0, 1)}
    assets = [[f"photo{clip // 40}"] for clip in range(200)]
    over_assets, over_clips = compare(variant, full, assets=assets), compare(variant, full)
    assert over_assets.high - over_assets.low > 3 * (over_clips.high - over_clips.low)
    assert (over_assets.num_assets, over_clips.num_assets) == (5, None)
    assert compare(variant, full, assets=[[] for _ in range(200)]) == over_clips


def test_the_ablation_table_shows_the_papers_figures(browser, study):
    page = opened(browser, study[1], 1440)
    row = page.locator("table.ablation[data-split=test_new_scenes] tr[data-recipe=without_snrp]")
    cells = row.locator("td").all_inner_texts()
    assert cells[0] == "2"
    assert float(cells[2].split()[0]) == pytest.approx(-6, abs=1)
    assert cells[5:] == ["70.7 / 79.0", "-1.6", "84.1 / 90.8", "-1.4"]
    assert "clear" in row.locator("td").nth(2).get_attribute("class")
    damf = page.locator("table.ablation[data-split=test_strict] tr[data-recipe=without_damf]")
    assert "clear" not in (damf.locator("td").nth(2).get_attribute("class") or "")
    assert "other data" in page.locator("#ablation .warn").inner_text()


def test_the_noise_table_pairs_each_model_with_itself(browser, tmp_path):
    store = records.noise_store(tmp_path)
    page = opened(browser, build_report(store, folder=tmp_path / "page"), 1440)
    rows = page.locator("table.noise[data-split=test_strict] tbody tr").all()
    cells = [[cell.strip() for cell in row.inner_text().split("\t")] for row in rows]
    losses = {(row[0], row[1]): row[3] for row in cells}
    assert losses["without_snrp", "brownian x 0.1"] == "-4.0 [-4.0, -4.0]"
    assert losses["full", "moving train x 0.1"] == "+0.0 [+0.0, +0.0]"
    assert losses["full", "original audio"] == "-"
    assert cells[1][5:] == ["68.8 / 76.5", "-1.9"]


def test_the_table_of_architectures_has_quality_false_positives_and_cost(tmp_path):
    store = records.architectures_store(tmp_path)
    page = build_report(store, folder=tmp_path / "page")
    lines = (page.parent / "report.md").read_text().split("## Architectures, on test_strict")[1].splitlines()
    rows = {
        line.split(":")[0].strip("| "): line.strip("|").split(" | ")[1:] for line in lines if ": " in line
    }
    assert rows["sdavs"][:6] == ["2", "40.0 ± 0.0", "-", "40.0 ± 0.0", "-", "40.0 ± 0.0"]
    assert rows["tpavi"][:3] == ["2", "38.0 ± 0.0", "-2.0 [-2.0, -2.0]"]
    assert rows["tpavi"][5:7] == ["50.0 ± 0.0", "+10.0 [+10.0, +10.0]"]
    assert rows["sdavs"][7:9] == ["-", "-"], "a sound that the data do not allow"
    # Every sound has the same scores here, P = N: 2 P (1 - P), and the marked fraction.
    assert rows["tpavi"][11:14] == ["47.1 ± 0.0", "48.0 ± 0.0", "50.0 ± 0.0"]
    assert rows["sdavs"][11:14] == ["-", "-", "-"]
    assert [cell.strip() for cell in rows["tpavi"][14:]] == ["5.6", "1.5", "50"]
    assert rows["ddeseg_code"][1] == "not finished"
    assert '<tr data-variant="tpavi">' in page.read_text()


def test_a_cross_validation_shows_each_folds_score_and_their_mean(tmp_path):
    page = build_report(records.folds_store(tmp_path), folder=tmp_path / "page")
    text = (page.parent / "report.md").read_text().split("## Cross-validation")[1]
    assert "| 0 | 0 | 0.300 | 0.360 |\n| 1 | 0 | 0.400 | 0.480 |\n| 2 | 0 | 0.500 | 0.600 |" in text
    assert "| mean ± sd | | 0.400 ± 0.100 | 0.480 ± 0.120 |" in text
    assert "Best configuration" not in text
    assert '<tr data-fold="mean"><th>mean ± sd</th><td></td><td>0.400 ± 0.100</td>' in page.read_text()


def test_failures_are_shown_with_their_reasons_and_cannot_inject_markup(browser, study):
    page = opened(browser, study[1], 1440)
    assert page.locator("#failures li").all_inner_texts() == ["rm_add-s1 OutOfMemoryError: <b>no</b> room"]
    assert page.locator("tr[data-recipe=rm_add] td").first.inner_text() == "1"


def test_the_best_configuration_can_be_pasted(browser, search, tmp_path):
    page = opened(browser, search[1], 1440)
    page.locator("#best summary").click()
    path = tmp_path / "best.yaml"
    path.write_text(page.locator("#best-config").inner_text())
    config = load_config([path])
    short = yaml.safe_load(page.locator("#best-values").inner_text())
    assert config.optimizer.lr == pytest.approx(short["optimizer"]["lr"])
    assert abs(np.log10(config.optimizer.lr) + 3) < 0.2
    assert config.name == "demo-search-best"


@pytest.mark.parametrize("width", [1440, 390])
def test_charts_are_drawn_and_nothing_sticks_out_of_the_page(browser, search, study, width):
    for path, names in (
        (search[1], ["curves-chart", "parallel-chart", "importance-chart", "pareto-chart"]),
        (study[1], ["curves-chart", "differences-0", "pareto-chart"]),
    ):
        page = opened(browser, path, width)
        for name in names:
            box = page.locator(f"#{name} .main-svg").first.bounding_box()
            assert box["height"] > 100
            assert box["width"] > 300
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()


def test_the_learning_rate_is_found_to_matter_most(search):
    shares = summarize(search[0]).importance["val_miou"]
    assert next(iter(shares)) == "optimizer.lr"
    assert sum(shares.values()) == pytest.approx(1)


def test_the_pareto_front_holds_the_trials_that_no_other_beats_in_both(browser, search):
    summary = summarize(search[0])
    assert summary.trade_off == ("val_miou", "latency_ms")
    front = summary.front
    costs = [trial.best["latency_ms"] for trial in front]
    quality = [trial.best["val_miou"] for trial in front]
    assert costs == sorted(costs)
    assert quality == sorted(quality)
    assert quality[-1] == max(t.best["val_miou"] for t in summary.trials)
    page = opened(browser, search[1], 1440)
    shown = page.locator("table.front tbody th").all_inner_texts()
    assert shown == [trial.id for trial in front]


def test_csv_and_markdown_hold_every_trial_and_the_commands(study):
    folder = study[1].parent
    rows = list(csv.DictReader(io.StringIO((folder / "trials.csv").read_text())))
    assert len(rows) == 8
    assert {row["state"] for row in rows} == {"finished", "failed"}
    assert 0.3 < float(rows[0]["test_strict_miou"]) < 0.5
    text = (folder / "report.md").read_text()
    assert "| without_snrp | 2 |" in text
    assert "python jobs/tune.py --sweep 'my sweep.yaml'" in text


@pytest.mark.slow
def test_a_report_is_built_by_one_command_also_while_the_sweep_runs(tmp_path):
    store = records.search_store(tmp_path / "results", num_trials=4)
    running = store.trials()[0].model_copy(update={"state": "running", "reports": []})
    store.write_trial(running)
    command = [
        sys.executable,
        "jobs/report.py",
        "--sweep",
        "demo-search",
        "--storage-uri",
        tmp_path / "results",
    ]
    ran = subprocess.run(
        [*command, "--out", tmp_path / "page"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == (tmp_path / "page/report.html").as_uri()
    assert "the sweep is not finished" in (tmp_path / "page/report.html").read_text()
    command[3] = "demo-serach"
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr.startswith("report.py: --sweep: there is no sweep 'demo-serach' at ")


def test_a_storage_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        ValueError, match=r"storage.uri: .*file/sweeps/x cannot be written: .*Not a directory"
    ):
        SweepStore(str(tmp_path / "file"), "x").write_definition({})
