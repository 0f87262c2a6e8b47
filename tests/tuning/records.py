"""Made-up records of sweeps, to test what is made of them."""

from pathlib import Path

import numpy as np
import yaml
from sdavs_platform.config.cli import validated
from sdavs_platform.tuning.search import planned_trials
from sdavs_platform.tuning.space import normalized
from sdavs_platform.tuning.store import SweepStore, TrialRecord
from sdavs_platform.tuning.study import SWAPPED, parse_study
from sdavs_platform.tuning.sweep import load_sweep

from sdavs_model.analysis.sound_conditions import ORIGINAL

ROOT = Path(__file__).resolve().parents[2]

# What each variant loses in J, and the clips of each test split.
LOSS = {"full": 0.0, "without_snrp": 0.06, "without_damf": 0.0, "rm_add": 0.02}
SPLITS = {"test_new_scenes": 60, "test_strict": 40}


def config():
    """The config that the records pretend to be trained with."""
    model = {"backbone": "resnet10t", "image_size": 64, "width": 32, "num_heads": 2}
    return validated({"model": model, "training": {"epochs": 8}, "data": {"root": "/data/realav"}})


def write(storage, definition, records) -> SweepStore:
    """A sweep as `run_sweep` leaves it."""
    sweep = load_sweep(None, definition)
    sweep = sweep.model_copy(update={"space": normalized(sweep.space, config())})
    store = SweepStore(str(storage), sweep.name)
    store.write_definition(
        {
            "sweep": sweep.model_dump(mode="json"),
            "config": config().model_dump(mode="json"),
            "command": ["python", "jobs/tune.py", "--sweep", "my sweep.yaml"],
            "data_digest": "d1" * 32,
            "git_commit": "c0ffee" * 6 + "abcd",
        }
    )
    for record in records(sweep):
        store.write_trial(record)
    return store


def study_store(storage) -> SweepStore:
    """An ablation study of two seeds; its last trial has failed."""

    def records(sweep):
        rng = np.random.default_rng(0)
        hard = {split: rng.uniform(0.1, 0.7, number) for split, number in SPLITS.items()}
        for planned in planned_trials(sweep, config(), study=parse_study(sweep.study, config())):
            level = 0.4 - LOSS[planned.variant] + 0.01 * planned.values["seed"]
            scores = {
                split: {
                    metric: np.clip(clips + level - 0.4 + rng.normal(0, 0.03, len(clips)), 0, 1).tolist()
                    for metric in ("miou", "fscore")
                }
                for split, clips in hard.items()
            }
            trial = _record(
                planned, level, epochs=8, state="finished", latency=12 + 10 * LOSS[planned.variant]
            )
            trial.scores = {ORIGINAL: scores}
            if planned.id == "rm_add-s1":
                trial.state, trial.error, trial.scores = "failed", "OutOfMemoryError: <b>no</b> room", {}
            yield trial

    definition = {"name": "demo-study", "study": "ablation/III,rm_add", "seeds": [0, 1]}
    return write(storage, definition, records)


def effects_store(storage) -> SweepStore:
    """The shipped study: without SNRP J falls by six points; without DAMF only by what swapped sound gains; the two
    directions of attention make no difference. Clips share photographs and recordings."""
    definition = yaml.safe_load((ROOT / "jobs/configs/sweeps/study_demo.yaml").read_text())

    def records(sweep):
        rng = np.random.default_rng(0)
        hard = {split: rng.uniform(0.2, 0.6, number) for split, number in SPLITS.items()}
        assets = {
            split: [[f"photo{clip % 12}", f"sound{clip % 7}"] for clip in range(number)]
            for split, number in SPLITS.items()
        }
        for planned in planned_trials(sweep, config(), study=parse_study(sweep.study, config())):
            trial = _record(planned, 0.5, epochs=2, state="finished", latency=10)
            trial.assets = assets
            trial.scores = {ORIGINAL: {}, SWAPPED: {}}
            for split, clips in hard.items():
                right = clips + rng.normal(0, 0.03, len(clips)) - LOSS.get(planned.variant, 0.0)
                swapped = 0.2 + rng.normal(0, 0.03, len(clips)) + 0.05 * (planned.variant == "without_damf")
                for sound, scores in ((ORIGINAL, right), (SWAPPED, swapped)):
                    trial.scores[sound][split] = dict.fromkeys(("miou", "fscore"), scores.tolist())
            yield trial

    return write(storage, definition, records)


def noise_store(storage) -> SweepStore:
    """A noise study of one seed: noise costs the model without SNRP four points, the other none."""

    def records(sweep):
        study = parse_study(sweep.study, config())
        clips = np.linspace(0.2, 0.6, 30)
        for planned in planned_trials(sweep, config(), study=study):
            loss = 0.04 if planned.variant == "without_snrp" else 0.0
            trial = _record(planned, 0.4, epochs=2, state="finished", latency=10)
            trial.scores = {
                sound: {
                    split: {
                        metric: (clips - loss * (sound != ORIGINAL)).tolist() for metric in ("miou", "fscore")
                    }
                    for split in SPLITS
                }
                for sound in study.conditions
            }
            yield trial

    return write(storage, {"name": "demo-noise", "study": "noise"}, records)


def architectures_store(storage) -> SweepStore:
    """A study of architectures of two seeds: TPAVI is two points worse and marks ten more, DDESeg has not run."""

    def records(sweep):
        study = parse_study(sweep.study, config(), sweep.models)
        clips = np.linspace(0.2, 0.6, 30)
        for planned in planned_trials(sweep, config(), study=study):
            if planned.variant not in ("sdavs", "tpavi"):
                continue
            worse = planned.variant == "tpavi"
            trial = _record(planned, 0.4, epochs=2, state="finished", latency=20 if worse else 10)
            figures = {"miou": clips - 0.02 * worse, "fscore": clips, "fpr": clips + 0.1 * worse}
            trial.scores = {
                sound: {
                    split: {metric: values.tolist() for metric, values in figures.items()} for split in SPLITS
                }
                for sound in study.conditions[: 4 if worse else 2]
            }
            yield trial

    definition = {"name": "demo-architectures", "study": "architectures", "seeds": [0, 1]}
    return write(storage, definition | {"models": {"tpavi": {"width": 16}}}, records)


def folds_store(storage) -> SweepStore:
    """A cross-validation of three folds, with J 0.3, 0.4 and 0.5 of F's 1.2 times."""

    def records(sweep):
        for planned in planned_trials(sweep, config(), study=parse_study(sweep.study, config())):
            level = (0.3 + 0.1 * planned.values["data.fold"]) / (1 - 0.8**8)
            yield _record(planned, level, epochs=8, state="finished", latency=10)

    return write(storage, {"name": "demo-folds", "study": "folds/3"}, records)


def search_store(storage, *, num_trials=24) -> SweepStore:
    """A search in which only the learning rate matters; a third of the trials are stopped early."""

    def records(sweep):
        for planned in planned_trials(sweep, config(), study=None):
            lr, width = planned.values["optimizer.lr"], planned.values["model.width"]
            level = 0.5 - 0.2 * abs(np.log10(lr) + 3)
            stopped = planned.number % 3 == 2
            state = "stopped" if stopped else "finished"
            yield _record(planned, level, epochs=3 if stopped else 8, state=state, latency=5 + width / 8)

    space = {
        "optimizer.lr": {"loguniform": [1e-4, 1e-2]},
        "model.width": {"choice": [32, 64, 96]},
        "data.augment.zoom": {"uniform": [0, 0.4]},
    }
    definition = {
        "name": "demo-search",
        "space": space,
        "num_trials": num_trials,
        "objectives": ["val_miou", "latency_ms"],
    }
    return write(storage, definition, records)


def _record(planned, level, *, epochs, state, latency) -> TrialRecord:
    reports = [
        {
            "epoch": float(epoch),
            "val_miou": float(level * (1 - 0.8**epoch)),
            "val_fscore": float(1.2 * level * (1 - 0.8**epoch)),
            "seconds": 20.0 * epoch,
        }
        for epoch in range(1, epochs + 1)
    ]
    return TrialRecord(
        id=planned.id,
        number=planned.number,
        values=planned.values,
        variant=planned.variant,
        state=state,
        error="stopped early after epoch 3" if state == "stopped" else None,
        reports=reports,
        seconds=20.0 * epochs,
        run_id="r" * 32,
        checkpoint=f"/storage/{planned.id}/checkpoint",
        cost={"latency_ms": float(latency), "gmacs": 1.5, "parameters_m": 5.6},
    )
