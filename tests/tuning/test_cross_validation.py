"""What a cross-validation registers: the ensemble of all folds, and nothing while one is missing."""

from types import SimpleNamespace

import pytest
import records
import torch
from sdavs_platform.training import finish
from sdavs_platform.tuning import tracking
from sdavs_platform.tuning.sweep import SweepConfig

from sdavs_model import SDAVSConfig, build_model, save_artifact

TINY = SDAVSConfig(backbone="test_convnext2", image_size=32, width=16, num_heads=2, vggish_width=0.125)


@pytest.fixture
def finished(monkeypatch):
    """What `finish_training` is called with; it makes version 7."""
    calls = []

    def on_a_worker(function, config, **arguments):
        calls.append(arguments | {"fold": config.data.fold})
        return {}, 7

    monkeypatch.setattr(tracking, "on_a_worker", on_a_worker)
    monkeypatch.setattr(tracking, "resolved", lambda config: config)
    monkeypatch.setattr(tracking, "promote", lambda *_, **__: None)
    return calls


def register(store):
    sweep = SweepConfig.model_validate(store.definition()["sweep"])
    config = records.config()
    config = config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": "mlflow"})})
    return tracking.register_candidate(sweep, config, store)


def named(store):
    """The made-up records with the names of their trainings."""
    for trial in store.trials():
        store.write_trial(trial.model_copy(update={"run_name": f"demo-{trial.id}", "data_digest": "d"}))
    return store


def test_all_folds_become_one_version_with_the_mean_of_the_out_of_fold_scores(tmp_path, finished):
    candidate = register(named(records.folds_store(tmp_path)))
    assert candidate["version"] == "7"
    (call,) = finished
    assert call["fold"] == 2, "the best one comes first"
    assert [config.data.fold for _, config in call["others"]] == [0, 1]
    assert call["val_scores"] == pytest.approx({"miou": 0.4, "fscore": 0.48})
    assert call["data_digest"] == "d1" * 32, "of all data, not of a fold's part"
    assert call["lineage_tags"] == {"sweep": "demo-folds", "folds": "3"}


def test_a_failed_fold_prevents_the_ensemble(tmp_path, finished):
    store = named(records.folds_store(tmp_path))
    store.write_trial(store.trials()[1].model_copy(update={"state": "failed"}))
    with pytest.raises(RuntimeError, match="cannot build the ensemble: fold_1-s0 has failed"):
        register(store)
    assert finished == []


def test_the_exported_folds_are_members_of_one_model(tmp_path, monkeypatch):
    models = {name: build_model(TINY).eval() for name in ("first", "second", "third")}

    def export(checkpoint, folder, *, config, lineage):
        classes = ["background", "sounding object"]
        save_artifact(folder, model=models[checkpoint.path], classes=classes, metrics={}, lineage=lineage)

    monkeypatch.setattr(finish, "export_checkpoint", export)
    others = [(SimpleNamespace(path=name), None) for name in ("second", "third")]
    joined = finish._joined(models["first"], others, scratch=tmp_path / "others", device="cpu")
    assert not (tmp_path / "others").exists()
    for member, model in zip(joined.members, models.values(), strict=True):
        weights = member.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
