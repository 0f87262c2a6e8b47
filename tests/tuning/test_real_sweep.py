"""A search with real trainings: Ray Train and DeepSpeed inside Tune, MLflow, the registry, the report."""

import pytest
import ray
from databases import mlflow_database
from rich.console import Console
from sdavs_platform.config.cli import load_config
from sdavs_platform.tracking.client import mlflow_client
from sdavs_platform.tracking.registry import resolve
from sdavs_platform.tracking.runs import TrainingRun
from sdavs_platform.tuning.measurements import clip_assets, score_clips
from sdavs_platform.tuning.report.build import build_report
from sdavs_platform.tuning.run import run_sweep
from sdavs_platform.tuning.space import with_values
from sdavs_platform.tuning.store import SweepStore
from sdavs_platform.tuning.study import parse_study
from sdavs_platform.tuning.sweep import best_trial, load_sweep
from sdavs_platform.tuning.trial import Training
from waiting import wait_until


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from sdavs_model.data.realav.build import RealAVConfig, prepare

    folder = tmp_path_factory.mktemp("data")
    prepare(
        folder,
        RealAVConfig(
            num_train=8, num_val=3, num_test_new_scenes=4, num_test_strict=4, num_test_strict_wide=0, size=64
        ),
    )
    return folder


@pytest.fixture(scope="module")
def config(data, tmp_path_factory):
    home = tmp_path_factory.mktemp("sweep")
    model = {"backbone": "resnet10t", "image_size": 32, "width": 32, "num_heads": 2, "vggish_width": 0.125}
    return load_config(
        [
            {
                "data": {"root": str(data), "test_splits": ["test_new_scenes"]},
                "model": model,
                "training": {"epochs": 2, "batch_size": 4, "log_every": 1},
                "optimizer": {"warmup_steps": 0, "grad_clip": 0},
                "cluster": {"num_workers": 1},
                "tracking": {"uri": mlflow_database(home)},
                "storage": {"uri": str(home / "results")},
            }
        ]
    )


@pytest.fixture(scope="module")
def definition():
    """The first trial does not learn, the second unlearns everything and is stopped, the third diverges."""
    return load_sweep(
        None,
        {
            "name": "real",
            "search": "grid",
            "scheduler": "asha",
            "asha": {"grace_epochs": 1, "reduction_factor": 2},
            "space": {"optimizer.lr": {"choice": [1e-12, 1e-2, 1e18]}},
            "max_concurrent": 1,
            "retries": 0,
        },
    )


@pytest.fixture(scope="module")
def swept(cluster, config, definition):
    return run_sweep(definition, config, command=["python", "jobs/tune.py"], console=Console(quiet=True))


@pytest.fixture(scope="module")
def store(swept, config):
    return SweepStore(config.storage.uri, "real")


@pytest.fixture(scope="module")
def report(swept):
    return build_report(swept.store, parent=swept.parent)


def test_each_trial_ends_as_it_should_and_says_why(store):
    still, forgot, broken = store.trials()
    assert still.state == "finished"
    assert [report["epoch"] for report in still.reports] == [1, 2]
    assert still.cost["latency_ms"] > 0
    assert forgot.state == "stopped"
    assert forgot.error == "stopped early after epoch 1"
    assert broken.state == "failed"
    assert "the loss is nan" in broken.error


def test_stopped_trials_release_everything(swept):
    wait_until(
        lambda: ray.available_resources().get("CPU") == 2, what="both CPUs", details=ray.available_resources
    )


def test_the_trials_are_children_of_the_sweep_in_mlflow_and_end_in_their_own_states(report, store, config):
    client = mlflow_client(config.tracking.uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "sdavs"]
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`sdavs.sweep_store` != ''")
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    children = {
        run.data.tags["sdavs.trial"]: run for run in client.search_runs([experiment.experiment_id], query)
    }
    assert {name: run.info.status for name, run in children.items()} == {
        "t0000": "FINISHED",
        "t0001": "FINISHED",
        "t0002": "FAILED",
    }
    assert {run.data.params["optimizer.lr"] for run in children.values()} == {"0.01", "1e-12", "1e+18"}
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["sdavs.best_trial"] == "t0000"
    assert {file.path for file in client.list_artifacts(parent.info.run_id, "report")} == {
        "report/report.html",
        "report/report.md",
        "report/trials.csv",
    }


def test_the_best_trial_is_registered_as_candidate_with_its_lineage(swept, store, config):
    version = resolve("models:/sdavs@candidate", uri=config.tracking.uri)
    best = store.trials()[0]
    assert swept.candidate["version"] == str(version.version)
    assert version.run_id == best.run_id
    lineage = {key: version.tags[key] for key in ("sweep", "trial", "data_digest")}
    assert lineage == {"sweep": "real", "trial": "t0000", "data_digest": best.data_digest}
    assert len(version.tags["git_commit"]) >= 7


def test_the_same_command_again_trains_nothing_and_registers_nothing(swept, store, config, definition):
    before = [trial.model_dump() for trial in store.trials()]
    again = run_sweep(definition, config, command=["python"], console=Console(quiet=True))
    assert [trial.model_dump() for trial in store.trials()] == before
    assert again.candidate == swept.candidate
    assert resolve("models:/sdavs/latest", uri=config.tracking.uri).version == int(swept.candidate["version"])


def test_a_name_cannot_be_continued_with_another_space(swept, config, definition):
    other = definition.model_copy(update={"asha": definition.asha.model_copy(update={"grace_epochs": 2})})
    with pytest.raises(ValueError, match=r"another sweep 'real' .*differs in: asha\)"):
        run_sweep(other, config, command=["python"], console=Console(quiet=True))


def test_a_study_scores_every_test_clip_with_and_without_noise(swept, store, config, definition):
    best = best_trial(definition, store.trials())
    trained = with_values(config, best.values)
    conditions = parse_study("noise", config).conditions
    scores = score_clips(config=trained, checkpoint=best.checkpoint, conditions=conditions)
    assert [*scores] == ["original audio", "brownian x 0.1", "moving train x 0.1"]
    assert all(len(found["test_new_scenes"]["miou"]) == 4 for found in scores.values())
    assets = clip_assets(config=trained)["test_new_scenes"]
    assert len(assets) == 4
    assert all(len(own) >= 3 for own in assets)


def test_a_trial_continues_from_anothers_checkpoint_with_its_own_learning_rate(swept, store, config):
    donor = store.trials()[0]
    values = {"name": "clone", "optimizer.lr": 1e-5, "training.epochs": 3, "tracking.registered_model": None}
    training = Training(with_values(config, values), start_from=donor.checkpoint, tags={})
    while report := training.next_report():
        assert report["epoch"] > 1
    training.stop()
    assert training.last["epoch"] == 3
    rates = TrainingRun(uri=config.tracking.uri, run_id=training.last["run_id"]).history("train/lr")
    assert rates[0][0] > 2, "the donor's steps are not repeated"
    assert all(1e-8 < rate <= 1e-5 for _, rate in rates), "the donor's learning rate was 1e-12"


def test_the_report_of_the_sweep_names_the_failure(report, swept):
    assert swept.num_failed == 1
    assert "the loss is nan" in report.read_text()
