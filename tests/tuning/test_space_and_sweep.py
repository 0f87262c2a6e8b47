"""Spaces, studies and their mistakes, all reported before anything starts."""

from types import SimpleNamespace

import numpy as np
import pytest
from sdavs_platform.config.cli import validated
from sdavs_platform.tuning.driver import asha_scheduler
from sdavs_platform.tuning.run import _settings
from sdavs_platform.tuning.search import OptunaQueue, planned_trials, trial_queue
from sdavs_platform.tuning.space import Dimension, draw, normalized, with_values
from sdavs_platform.tuning.store import SweepStore, TrialRecord
from sdavs_platform.tuning.study import parse_study
from sdavs_platform.tuning.sweep import SweepConfig, load_sweep

BASE = validated({"model": {"backbone": "resnet10t", "image_size": 64, "width": 32, "num_heads": 2}})


def sweep_of(**values) -> SweepConfig:
    return load_sweep(None, values)


def space_of(**dimensions):
    return sweep_of(space={key.replace("__", "."): value for key, value in dimensions.items()}).space


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({}, "space: is empty; name at least one key of the config tree, or give a study"),
        ({"space": {"seed": {"choice": []}}}, "space.seed: choice: is empty"),
        ({"space": {"seed": {"integer": [5, 2]}}}, r"low \(5\) must be below high \(2\)"),
        ({"space": {"optimizer.lr": {"loguniform": [0, 1]}}}, r"low \(0.0\) must be above 0"),
        ({"space": {"seed": {"choise": [1]}}}, "space.seed.choise: unknown key; did you mean choice"),
        ({"study": "ablation/III", "serach": "grid"}, "serach: unknown key; did you mean search"),
        ({"space": {"seed": {"choice": [1]}}, "objectives": ["val_mIoU"]}, "did you mean val_miou"),
        ({"space": {"optimizer.lr": {"uniform": [0.1, 0.2]}}, "search": "grid"}, "a grid needs `choice`"),
        (
            {"space": {"model.width": {"choice": [32, 64]}}, "scheduler": "pbt"},
            "cannot change during a training",
        ),
        ({"space": {"seed": {"choice": [1]}}, "study": "noise"}, "a space or a study, not both"),
        ({"space": {"seed": {"choice": [1]}}, "num_trials": 0}, "num_trials: 0 is not allowed"),
        ({"study": "noise", "seeds": [0, 1, 0]}, "seeds: 0 is given more than once"),
        (
            {"space": {"seed": {"choice": [1]}}, "objectives": ["val_miou", "val_miou"]},
            "objectives: val_miou is given more than once",
        ),
        ({"space": {"optimizer.lr": {"uniform": [0.1, float("inf")]}}}, "0.1 to inf is no finite range"),
    ],
)
def test_a_wrong_definition_is_refused_in_one_line(definition, message):
    with pytest.raises(ValueError, match=message) as refusal:
        load_sweep(None, definition)
    assert "\n" not in str(refusal.value)


def test_a_space_of_architectures_has_only_keys_that_all_of_them_have():
    architectures = Dimension(choice=("sdavs", "ddeseg"))
    space = {"model.architecture": architectures, "model.token_width": Dimension(choice=(64,))}
    with pytest.raises(
        ValueError, match=r"space.model.token_width: a key of model.architecture=ddeseg, not of sdavs, which"
    ):
        normalized(space, BASE)
    assert normalized({"model.architecture": architectures}, BASE)["model.architecture"] == architectures


@pytest.mark.parametrize(
    ("key", "dimension", "message"),
    [
        (
            "optimizer.lrr",
            {"uniform": [1, 2]},
            "space.optimizer.lrr: unknown key; did you mean optimizer.lr?",
        ),
        ("optimizer.lr", {"uniform": [-1, 2]}, r"space.optimizer.lr: optimizer.lr: -1.0 is not allowed"),
        (
            "model.backbone",
            {"choice": ["resnet10t", "resnet10x"]},
            "timm .* has no backbone 'resnet10x'; did you mean",
        ),
        ("cluster.num_workers", {"choice": [1, 2]}, "must be the same for all trials of a sweep"),
    ],
)
def test_an_invalid_key_or_value_is_named_with_the_nearest_valid_one(key, dimension, message):
    with pytest.raises(ValueError, match=message):
        normalized(space_of(**{key.replace(".", "__"): dimension}), BASE)


def test_a_value_that_is_valid_only_with_others_is_allowed_and_bad_combinations_are_named():
    space = space_of(model__width={"choice": [32, 96]}, model__num_heads={"choice": [2, 3]})
    assert normalized(space, BASE)["model.num_heads"].choice == (2, 3)
    sweep = sweep_of(search="grid", space=space)
    with pytest.raises(ValueError, match=r"'model.width': 32, 'model.num_heads': 3"):
        planned_trials(sweep, BASE, study=None)


def test_choices_are_parsed_as_the_config_tree_parses_them():
    space = normalized(space_of(optimizer__lr={"choice": ["1e-4", "1e-3"]}), BASE)
    assert space["optimizer.lr"].choice == (1e-4, 1e-3)


@pytest.mark.parametrize("values", [["1e-4", 1e-3, 0.0001], [[0.9, 0.99], [0.9, 0.99]]])
def test_a_value_that_is_given_twice_in_whatever_spelling_is_refused(values):
    key = "optimizer.betas" if isinstance(values[0], list) else "optimizer.lr"
    with pytest.raises(ValueError, match=rf"space.{key}: .* is given more than once") as refusal:
        normalized(sweep_of(space={key: {"choice": values}}).space, BASE)
    assert "\n" not in str(refusal.value)


def test_recipes_and_tables_that_are_given_twice_are_trained_once():
    study = parse_study("ablation/full,without_snrp,full,III,III", BASE)
    assert study.variants == ("full", "without_snrp", "without_damf")
    assert study.tables["selected"] == ("full", "without_snrp")


def test_a_continued_asha_compares_new_trials_with_the_recorded_ones():
    definition = {"scheduler": "asha", "asha": {"grace_epochs": 1, "reduction_factor": 2}}
    sweep = sweep_of(space=space_of(optimizer__lr={"loguniform": [1e-4, 1e-2]}), **definition)

    def reports(*values):
        return [{"epoch": float(e), "val_miou": value} for e, value in enumerate(values, start=1)]

    records = [
        TrialRecord(id=f"t{n}", number=n, values={}, state="finished", reports=reports(0.5, 0.6, 0.7, 0.8))
        for n in range(4)
    ]
    trial = SimpleNamespace(trial_id="new")
    for ended, action in (([], "CONTINUE"), (records, "STOP")):
        scheduler = asha_scheduler(sweep, epochs=4, ended=ended)
        scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(None, trial, reports(0.1)[0]) == action

    continued = SimpleNamespace(trial_id="continued")
    scheduler = asha_scheduler(sweep, epochs=4, ended=records)
    scheduler.replay("continued", reports(0.4, 0.65))
    scheduler.on_trial_add(None, continued)
    assert scheduler.on_trial_result(None, continued, {"epoch": 3.0, "val_miou": 0.3}) == "CONTINUE"
    assert scheduler.on_trial_result(None, continued, {"epoch": 2.0, "val_miou": 0.3}) == "CONTINUE"


def test_random_values_stay_in_range_and_depend_only_on_seed_and_number():
    space = space_of(
        optimizer__lr={"loguniform": [1e-4, 1e-2]},
        training__epochs={"integer": [1, 3]},
        data__num_workers={"log_integer": [1, 64]},
        optimizer__gamma={"uniform": [0.1, 0.9]},
    )
    drawn = [draw(space, seed=3, number=n) for n in range(300)]
    assert drawn[7] == draw(space, seed=3, number=7)
    assert {d["training.epochs"] for d in drawn} == {1, 2, 3}
    assert {1, 64} <= {d["data.num_workers"] for d in drawn}
    assert 0.8e-3 < np.exp(np.mean(np.log([d["optimizer.lr"] for d in drawn]))) < 1.2e-3
    assert all(with_values(BASE, d) for d in drawn[:5])


def test_a_grid_is_every_combination_and_a_resumed_one_only_what_is_left():
    sweep = sweep_of(
        search="grid", space=space_of(seed={"choice": [0, 1]}, optimizer__lr={"choice": [0.1, 0.2]})
    )
    first = planned_trials(sweep, BASE, study=None)
    assert [trial.values["optimizer.lr"] for trial in first] == [0.1, 0.2, 0.1, 0.2]
    done = TrialRecord(id="t0000", number=0, values=first[0].values, state="finished")
    cut = TrialRecord(id="t0002", number=2, values=first[2].values, state="interrupted")
    plan = trial_queue(sweep, BASE, study=None, records=[done, cut])
    assert [plan.next().id for _ in range(3)] == ["t0001", "t0002", "t0003"]
    assert plan.next() is None


def test_optuna_continues_from_the_recorded_trials_and_learns_from_them():
    space = space_of(optimizer__lr={"loguniform": [1e-4, 1e-2]}, model__width={"choice": [32, 64]})
    sweep = sweep_of(search="optuna", space=space, num_trials=40, objectives=["val_miou", "latency_ms"])

    def record(number, lr, width, state="finished"):
        report = {"epoch": 1, "val_miou": 1 - abs(np.log10(lr) + 2), "val_fscore": 0.0, "seconds": 1.0}
        values = {"optimizer.lr": lr, "model.width": width}
        cost = {"latency_ms": float(width)}
        return TrialRecord(
            id=f"t{number:04d}", number=number, values=values, state=state, reports=[report], cost=cost
        )

    known = [record(n, float(lr), 32) for n, lr in enumerate(np.geomspace(1.01e-4, 9.9e-3, 24))]
    known.append(record(24, 1e-3, 64, state="interrupted"))
    plan = OptunaQueue(sweep, BASE, known)
    assert plan.num_left == 16
    assert plan.next().id == "t0024"
    drawn = [plan.next() for _ in range(15)]
    assert plan.next() is None
    assert [trial.number for trial in drawn] == list(range(25, 40))
    assert np.median([trial.values["optimizer.lr"] for trial in drawn]) > 1.5e-3


def test_equal_models_of_a_study_are_trained_once_with_every_seed_in_the_same_order():
    study = parse_study("ablation/tables", BASE)
    assert [*study.tables] == ["III", "IV", "V", "VI", "VIII"]
    assert study.trained_as["rm_multiply"] == study.trained_as["snrp_before_fusion"] == "full"
    assert len(study.variants) == 11
    sweep = sweep_of(study="ablation/III", seeds=[0, 7])
    planned = planned_trials(sweep, BASE, study=parse_study("ablation/III", BASE))
    assert [trial.id for trial in planned] == [
        f"{variant}-s{seed}" for seed in (0, 7) for variant in ("full", "without_snrp", "without_damf")
    ]
    assert planned[4].values == {"model.ablation.snrp": "none", "seed": 7}


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ("ablation/without_snpr", "no table or recipe 'without_snpr'; did you mean without_snrp"),
        ("ablation/", "no 'ablation/'; allowed: noise, ablation/tables"),
        ("abletion/III", "no 'abletion/III'"),
    ],
)
def test_a_study_that_does_not_exist_is_refused(study, message):
    with pytest.raises(ValueError, match=message):
        parse_study(study, BASE)


def test_a_study_of_architectures_keeps_the_encoders_and_replaces_the_rest():
    study = parse_study("architectures", BASE, {"tpavi": {"width": 16}})
    assert study.variants[:4] == ("sdavs", "ddeseg_figure", "ddeseg_code", "tpavi")
    for planned in planned_trials(load_sweep(None, {"study": "architectures"}), BASE, study=study):
        config = with_values(BASE, planned.values)
        assert config.model.architecture == planned.variant.partition("_")[0]
        assert (config.model.backbone, config.model.image_size) == (
            BASE.model.backbone,
            BASE.model.image_size,
        )
        assert config.model_copy(update={"model": BASE.model, "seed": BASE.seed}) == BASE
    assert with_values(BASE, study.values["sdavs"]).model == BASE.model
    assert with_values(BASE, study.values["tpavi"]).model.width == 16
    assert with_values(BASE, study.values["ddeseg_code"]).model.variant == "code"
    assert parse_study("architectures/tpavi,sdavs", BASE).reference == "tpavi"


def test_a_study_of_architectures_refuses_keys_of_others():
    with pytest.raises(
        ValueError, match=r"study: tpavi does not fit the base config: model.num_heads: a key of"
    ):
        parse_study("architectures", BASE, {"tpavi": {"num_heads": 2}})
    with pytest.raises(ValueError, match=r"study: no architecture 'tpvi'; did you mean tpavi\?"):
        parse_study("architectures/tpvi", BASE)
    with pytest.raises(ValueError, match="models: only the study"):
        load_sweep(None, {"study": "noise", "models": {"tpavi": {}}})


def test_a_sweep_may_be_defined_in_python(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "def sweep():\n    return {'space': {'seed': {'choice': list(range(3))}}, 'search': 'grid'}\n"
    )
    assert load_sweep(path, {"name": "mine"}).space["seed"].choice == (0, 1, 2)


def test_names_in_a_sweep_are_taken_as_typed(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "name: 2026-07-01\nstudy: noise\nbase: {tracking: {experiment: 007}, training: {epochs: 2}}\n"
    )
    sweep = load_sweep(path, {})
    assert sweep.name == "2026-07-01"
    assert sweep.base == {"tracking": {"experiment": "007"}, "training": {"epochs": 2}}


def test_a_trial_waits_for_its_workers_however_long_others_keep_them(tmp_path):
    """A trial that gave up would count as failed, and a continued sweep would not run it again."""
    config = BASE.model_copy(update={"storage": BASE.storage.model_copy(update={"uri": str(tmp_path)})})
    sweep = sweep_of(space={"seed": {"choice": [0, 1]}})
    store = SweepStore(str(tmp_path), sweep.name)
    settings = _settings(sweep, config, None, store, SimpleNamespace(run_id="parent"), [])
    assert settings.config.cluster.wait_seconds >= 30 * 24 * 3600
    assert settings.config.cluster.autoscales, "what a lost node takes away comes back"
