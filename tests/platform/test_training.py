"""Trainings that take seconds on a real Ray cluster: two workers, DeepSpeed ZeRO-2, MLflow on sqlite."""

import gzip
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import ray.train
from sdavs_platform.evaluation.registered_model import evaluate_registered, log_results, results_table
from sdavs_platform.evaluation.scorers import Scorers
from sdavs_platform.evaluation.scoring import best_constant
from sdavs_platform.storage.datasets import open_split
from sdavs_platform.tracking.client import mlflow_client
from sdavs_platform.tracking.registry import fetch
from sdavs_platform.training.checkpoints.checkpoint import verify_complete
from sdavs_platform.training.run import _finish, train

pytestmark = pytest.mark.usefixtures("cluster")


def runs_named(config):
    client = mlflow_client(config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    if experiment is None:  # nothing has been logged yet
        return []
    return client.search_runs([experiment.experiment_id], f"tags.`sdavs.name` = '{config.name}'")


def failed_run(config):
    (run,) = runs_named(config)
    assert run.info.status == "FAILED"
    return run.data.tags["error"]


RESUMED = {
    "epochs": 2,
    "batch_size": 4,
    "log_every": 1,
    "accumulate": 2,
    "checkpoint_activations": True,
    "ema": 0.5,
}
"""`training` of the run `resumed`."""


@pytest.fixture(scope="module")
def interrupted_and_resumed(make_config, cluster):
    """A training that its time budget stops in the first epoch, and the same name started again.

    Its batches are accumulated of parts, its activations computed again, its weights averaged.
    """
    first = train(make_config("resumed", training=RESUMED | {"max_minutes": 1e-4}))
    return first, train(make_config("resumed", training=RESUMED | {"profile": [3, 4]}))


def test_a_stopped_training_resumes_under_its_name_in_the_same_mlflow_run(
    interrupted_and_resumed, make_config
):
    first, second = interrupted_and_resumed
    assert first.run_id == second.run_id
    assert len(runs_named(make_config("resumed"))) == 1
    client = mlflow_client(make_config("resumed").tracking.uri)
    steps = [point.step for point in client.get_metric_history(second.run_id, "train/loss")]
    assert steps == [1, 2, 3, 4]  # one step before the stop, the other of its epoch and two more after it
    assert all(math.isfinite(scores["miou"]) for scores in second.metrics.values())


def test_every_point_shows_where_the_time_went(interrupted_and_resumed, make_config):
    run_id = interrupted_and_resumed[1].run_id
    client = mlflow_client(make_config("resumed").tracking.uri)

    def history(key):
        return {point.step: point.value for point in client.get_metric_history(run_id, key)}

    parts = {name: history(f"time/{name}") for name in ("data", "forward", "backward", "optimizer")}
    for step in (1, 2, 3, 4):
        assert all(seconds[step] > 0 for seconds in parts.values())
    communication = history("time/communication")
    assert set(communication) == {2, 3, 4}  # only a training with a profile watches its collectives
    for step, seconds in communication.items():
        assert 0 < seconds < sum(part[step] for part in parts.values())
    checkpoint = history("time/checkpoint")
    assert checkpoint[3] > 0  # the first epoch's, written before it
    assert checkpoint[4] == 0
    assert set(history("train/loss_scale").values()) == {1}
    assert set(history("time/step")) == set(history("train/clips_per_s")) == {1, 2, 3, 4}


def test_the_profile_of_some_steps_is_in_the_storage_and_in_mlflow(interrupted_and_resumed, make_config):
    config = make_config("resumed")
    traces = sorted(Path(config.storage.uri, "resumed/profile").iterdir())
    assert [trace.name for trace in traces] == [f"steps-3-4-rank{rank}.json.gz" for rank in (0, 1)]
    for trace in traces:
        events = [event["name"] for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]]
        assert events.count("step/forward") == events.count("step/backward") == 2
        assert any("gloo" in name for name in events)
    kept = mlflow_client(config.tracking.uri).list_artifacts(interrupted_and_resumed[1].run_id, "profile")
    assert [Path(file.path).name for file in kept] == [trace.name for trace in traces]


def test_the_run_keeps_config_pictures_and_lineage(interrupted_and_resumed, make_config):
    (run,) = runs_named(make_config("resumed"))
    files = {
        file.path
        for folder in ("", "pictures")
        for file in mlflow_client(make_config("resumed").tracking.uri).list_artifacts(run.info.run_id, folder)
    }
    assert {"config.yaml", "pictures/learning_curve.png", "pictures/predictions.png"} <= files
    assert run.info.status == "FINISHED"
    assert run.data.params["model.backbone"] == "pvt_v2_b0"
    assert {"data_digest", "git_commit", "model_version"} <= run.data.tags.keys()


def test_the_registered_model_loads_with_the_model_package_alone(
    interrupted_and_resumed, make_config, tmp_path
):
    result = interrupted_and_resumed[1]
    uri = make_config("resumed").tracking.uri
    folder = fetch(f"models:/sdavs/{result.model_version}", uri=uri, cache=tmp_path)
    card = json.loads((folder / "sdavs.json").read_text())
    assert card["lineage"]["run_id"] == result.run_id
    assert card["lineage"]["consolidation_difference"] < 1e-3
    program = (
        "import sys, sdavs_model; m = sdavs_model.load_artifact(sys.argv[1]); "
        "print(sorted({'ray', 'mlflow', 'deepspeed', 'pydantic'} & sys.modules.keys()))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_evaluation_compares_the_right_sound_with_others_and_with_models_that_do_not_listen(
    interrupted_and_resumed, make_config, data
):
    version = interrupted_and_resumed[1].model_version
    uri = make_config("resumed").tracking.uri
    report = evaluate_registered(f"models:/sdavs/{version}", root=str(data), uri=uri)
    assert set(report["splits"]) == {"test_new_scenes", "test_strict"}
    for split, rows in report["splits"].items():
        controls = ["right audio", "muted audio", "swapped audio"]
        assert list(rows) == [
            *controls,
            "off-screen audio",
            "white noise",
            "deaf oracle",
            "best constant mask",
        ]
        assert set(report["robust"][split]) == {"g_miou", "g_fscore", "g_fpr"}
        interval = report["intervals"][split]["right audio"]
        assert interval["mean"] == pytest.approx(rows["right audio"]["miou"])
        assert interval["low"] <= interval["mean"] <= interval["high"]
    assert report["left_out"] == {}
    table = results_table(report)
    assert "test_strict" in table
    assert "F at the best threshold of each video" in table
    log_results(report, uri=uri)
    logged = mlflow_client(uri).get_run(report["run_id"]).data.metrics
    assert (
        logged["test/test_strict/deaf_oracle/miou"] == report["splits"]["test_strict"]["deaf oracle"]["miou"]
    )
    assert "test/test_strict/robust/g_fpr" in logged
    assert "test/test_strict/interval/right_audio_minus_deaf_oracle/low" in logged
    # Two workers that share the clips find the same.
    shared = evaluate_registered(
        f"models:/sdavs/{version}",
        root=str(data),
        uri=uri,
        splits=["test_strict"],
        scorers=Scorers(num_workers=2, wait_seconds=120),
    )
    rows = shared["splits"]["test_strict"]
    assert rows.keys() == report["splits"]["test_strict"].keys()
    for row, scores in rows.items():
        assert scores == pytest.approx(report["splits"]["test_strict"][row], abs=1e-5)
    # So do two processes, with a split each.
    apart = evaluate_registered(f"models:/sdavs/{version}", root=str(data), uri=uri, processes=2)
    assert list(apart["splits"]) == list(report["splits"])
    for split, rows in apart["splits"].items():
        for row, scores in rows.items():
            assert scores == pytest.approx(report["splits"][split][row], abs=1e-5)


def test_a_checkpoint_that_lacks_a_shard_is_refused_with_the_file_name(interrupted_and_resumed, tmp_path):
    checkpoint = ray.train.Checkpoint(interrupted_and_resumed[1].checkpoint)
    folder = Path(checkpoint.to_directory(tmp_path / "copy"))
    assert verify_complete(folder) == 2
    shard = next(folder.glob("shards/*rank_1*optim_states.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ValueError, match=shard.name):
        verify_complete(folder)


def test_a_name_cannot_be_resumed_with_another_config(interrupted_and_resumed, make_config):
    with pytest.raises(ValueError, match=r"trained with another config \(optimizer.lr was 0.0001\)"):
        train(make_config("resumed", training=RESUMED, optimizer={"lr": 0.5}))


def test_a_loss_that_is_not_finite_fails_the_run_naming_step_and_clips(make_config):
    config = make_config("nan", optimizer={"lr": 1e18, "grad_clip": 0, "warmup_steps": 0})
    with pytest.raises(RuntimeError, match=r"step \d+: the loss is nan on clips train_"):
        train(config)
    assert "the loss is nan on clips train_" in failed_run(config)


def test_a_corrupt_frame_fails_the_run_naming_the_file(make_config, data):
    frame = sorted((data / "Multi-sources/ms3_data/visual_frames").glob("train_*/*_2.png"))[-1]
    content = frame.read_bytes()
    frame.write_bytes(b"no picture")
    try:
        config = make_config("corrupt", training={"epochs": 2, "batch_size": 4, "log_every": 1})
        with pytest.raises(RuntimeError, match=frame.name):
            train(config)
    finally:
        frame.write_bytes(content)
    assert frame.name in failed_run(config)


def test_too_few_cpus_are_refused_at_once_in_a_failed_run(make_config):
    config = make_config("greedy", cluster={"num_workers": 4})
    with pytest.raises(ValueError, match=r"4 workers of 1 CPU do not fit into this Ray cluster \(2 CPUs"):
        train(config)
    assert "do not fit" in failed_run(config)


def test_a_missing_data_folder_is_refused_in_a_failed_run(make_config):
    config = make_config("homeless", data={"root": "/does/not/exist"})
    with pytest.raises(ValueError, match="/does/not/exist"):
        train(config)
    assert "/does/not/exist" in failed_run(config)


def test_finishing_is_tried_again_when_its_storage_fails_and_when_its_node_is_lost(
    make_config, tmp_path, monkeypatch
):
    def finish(checkpoint, **context):
        (tmp_path / f"attempt-{time.time_ns()}").touch()
        attempts = len(list(tmp_path.iterdir()))
        if attempts == 1:
            raise OSError("the storage is away")
        if attempts == 2:
            os._exit(1)  # what the driver sees of a lost node
        return {"val": {"miou": 0.5}}, attempts

    monkeypatch.setattr("sdavs_platform.training.run.finish_on_worker", finish)
    config = make_config("finished")
    run = SimpleNamespace(uri="", run_id="1", finished_result=lambda: None, set_finished_result=dict)
    best = SimpleNamespace(path="bucket/finished/checkpoint_1")
    trained = SimpleNamespace(best_checkpoints=[(best, {"val_miou": 0.5})])
    result = _finish(config, run, trained, digest="", weights={}, lineage={}, finishes=True)
    assert result.model_version == 3
    assert len(list(tmp_path.iterdir())) == 3


def test_the_best_constant_mask_names_its_kind(make_config):
    config = make_config("any")
    constant = best_constant(open_split(config, "train"), open_split(config, "val"))
    assert "mask" in constant.kind or "all" in constant.kind
    assert 0 <= constant.scores["miou"] <= 1
