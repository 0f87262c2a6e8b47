"""Records of a sweep while MLflow or the storage is away."""

import threading
from types import SimpleNamespace

import pytest
from databases import mlflow_database
from sdavs_platform.tracking.client import experiment_id, mlflow_client
from sdavs_platform.tuning import recorder as recording
from sdavs_platform.tuning import store as storing
from sdavs_platform.tuning.recorder import TrialRecorder
from sdavs_platform.tuning.search import ListQueue, PlannedTrial
from sdavs_platform.tuning.store import SweepStore, TrialRecord


@pytest.fixture
def mlflow(tmp_path):
    """The address of MLflow, and the id of a run that is running."""
    uri = mlflow_database(tmp_path)
    client = mlflow_client(uri)
    return uri, client.create_run(experiment_id(client, "sweeps")).info.run_id


def reported(uri, run_id, folder, **final):
    """A recorder whose only trial has reported its first epoch; `final` marks it as the last one."""
    table = SimpleNamespace(show=lambda record: None, tick=lambda: None)
    recorder = TrialRecorder(
        store=SweepStore(str(folder), "s"), table=table, queue=ListQueue([]), tracking_uri=uri, earlier=[]
    )
    recorder.planned(PlannedTrial(id="t0000", number=0))
    recorder.on_trial_start(0, [], "t0000")
    figures = dict.fromkeys(("val_miou", "val_fscore", "latency_ms", "gmacs", "parameters_m"), 0.5)
    report = {"epoch": 1, "seconds": 1.0, "values": {}, "run_name": "s-t0000", "run_id": run_id}
    recorder.on_trial_result(0, [], "t0000", figures | report | {"finished": bool(final)} | final)
    return recorder


def stopped_early(uri, run_id, folder):
    """A recorder whose only trial the scheduler has stopped after an epoch."""
    recorder = reported(uri, run_id, folder)
    recorder.on_trial_complete(0, [], "t0000")
    return recorder


def test_an_interrupt_right_after_the_final_report_leaves_the_trial_finished(mlflow, tmp_path):
    uri, run_id = mlflow
    final = {"scores": {}, "assets": {}, "best_checkpoint": None, "data_digest": "d"}
    assert reported(uri, run_id, tmp_path, **final).interrupt() == []
    assert SweepStore(str(tmp_path), "s").trials()[0].state == "finished"
    assert mlflow_client(uri).get_run(run_id).info.status == "RUNNING", "the training itself ends its run"


def test_an_interrupt_before_the_final_report_cuts_the_trial_off(mlflow, tmp_path):
    uri, run_id = mlflow
    (record,) = reported(uri, run_id, tmp_path).interrupt()
    assert (record.id, record.state) == ("t0000", "interrupted")
    assert mlflow_client(uri).get_run(run_id).info.status == "KILLED"


def test_the_end_of_a_run_is_logged_when_mlflow_is_back(mlflow, tmp_path, monkeypatch, caplog):
    uri, run_id = mlflow
    reasons = ["no connection", "no connection", None]
    monkeypatch.setattr(
        recording, "unreachable", lambda uri: reasons.pop(0) if len(reasons) > 1 else reasons[0]
    )
    monkeypatch.setattr(recording, "_RETRY_S", 0.0)
    recorder = stopped_early(uri, run_id, tmp_path)
    client = mlflow_client(uri)
    assert client.get_run(run_id).info.status == "RUNNING"
    assert "1 final states of runs are logged later" in caplog.text
    recorder.on_step_end(0, [])
    assert client.get_run(run_id).info.status == "RUNNING"
    recorder.on_step_end(0, [])
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["sdavs.stopped"] == "stopped early after epoch 1"


def test_a_run_that_was_deleted_ends_no_sweep(mlflow, tmp_path, caplog):
    uri, run_id = mlflow
    mlflow_client(uri).delete_run(run_id)
    recorder = stopped_early(uri, run_id, tmp_path)
    assert recorder.interrupt() == []
    assert "t0000: the end of its run could not be logged" in caplog.text
    assert SweepStore(str(tmp_path), "s").trials()[0].state == "stopped"


def test_a_record_is_written_when_the_storage_is_back(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(storing, "_RETRY_S", 0.01)
    (tmp_path / "sweeps").write_text("in the way")
    store = SweepStore(str(tmp_path), "s")
    writing = threading.Thread(target=store.write_trial, args=[TrialRecord(id="t0000", number=0, values={})])
    writing.start()
    while not caplog.messages:
        assert writing.is_alive()
    (tmp_path / "sweeps").unlink()
    writing.join()
    assert [record.id for record in store.trials()] == ["t0000"]
    assert len(caplog.messages) == 1
    assert "cannot be written" in caplog.text


def test_a_storage_that_stays_away_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(storing, "OUTAGE_S", 0.0)
    monkeypatch.setattr(storing, "_RETRY_S", 0.0)
    (tmp_path / "sweeps").write_text("in the way")
    with pytest.raises(ValueError, match=r"storage.uri: .*sweeps/s cannot be written"):
        SweepStore(str(tmp_path), "s").write_trial(TrialRecord(id="t0000", number=0, values={}))
