"""What checkpoints are chosen by: J, or J plus the gap between right and swapped sound; without a cluster."""

from types import SimpleNamespace

import pytest
import torch
from sdavs_platform.config.cli import validated
from sdavs_platform.tracking.runs import flattened, require_same_config
from sdavs_platform.training.batches import Batches
from sdavs_platform.training.checkpoints.checkpoint import LoopState
from sdavs_platform.training.checkpoints.listing import best_checkpoint
from sdavs_platform.training.preflight import check_data
from sdavs_platform.training.validator import Validator
from sdavs_platform.tuning.store import TrialRecord

from sdavs_model.metrics.listening import listening_scores

LISTENING = {"training": {"select_by": "listening", "epochs": 2, "batch_size": 4}}
OTHER_SOUNDS = {"val_split": "test_strict"}


def test_a_gain_by_marking_whatever_is_seen_counts_once_and_a_gain_by_listening_twice():
    before = listening_scores(miou=0.4, miou_swapped=0.3)
    assert before == pytest.approx({"miou_swapped": 0.3, "listening": 0.5})
    assert listening_scores(miou=0.5, miou_swapped=0.4)["listening"] == pytest.approx(0.6)
    assert listening_scores(miou=0.5, miou_swapped=0.3)["listening"] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"select_by": "F"}}, r"training\.select_by.*J.*listening"),
        (
            {"training": {"select_by": "listening"}, "data": {"audio": "muted"}},
            r"training\.select_by: .*allowed: J",
        ),
    ],
)
def test_other_criteria_are_refused_with_the_allowed_ones(changes, message):
    with pytest.raises(ValueError, match=message):
        validated(changes)


def test_a_training_is_not_resumed_with_another_criterion():
    before = flattened(validated({}))
    assert before["training.select_by"] == "J"
    with pytest.raises(ValueError, match=r"training\.select_by was J"):
        require_same_config(validated({"training": {"select_by": "listening"}}), before)


def test_a_validation_split_without_other_sounds_is_refused_before_the_training(make_config, data):
    config = make_config("x", **LISTENING, data=OTHER_SOUNDS | {"root": str(data), "test_splits": []})
    assert len(check_data(config)) == 64
    # Each of the three clips of this split shares a category with both others.
    with pytest.raises(
        ValueError, match=r"training\.select_by: listening swaps sounds, but in split 'val'.*allowed: J"
    ):
        check_data(make_config("x", **LISTENING))


def test_the_best_checkpoint_has_the_highest_score_and_patience_counts_it():
    reports = [{"val_miou": 0.6, "val_listening": 0.6}, {"val_miou": 0.5, "val_listening": 0.9}]
    trained = SimpleNamespace(best_checkpoints=list(zip("ab", reports, strict=True)))
    assert best_checkpoint(trained, criterion="miou")[0] == "a"
    assert best_checkpoint(trained, criterion="listening")[0] == "b"
    # An earlier version did not score listening.
    del reports[1]["val_listening"]
    assert best_checkpoint(trained, criterion="listening")[0] == "a"
    state = LoopState(epoch=1)
    assert state.count_validation(0.6, patience=2)
    assert not state.count_validation(0.5, patience=2)
    assert (state.best_score, state.best_epoch, state.stopped) == (0.6, 1, None)
    assert LoopState.from_json('{"step": 3, "best_miou": 0.4}') == LoopState(step=3, best_score=0.4)


def test_a_trial_of_a_sweep_counts_by_what_its_checkpoints_were_chosen_by():
    reports = [
        {"epoch": 1, "val_miou": 0.6, "val_fscore": 0.6},
        {"epoch": 2, "val_miou": 0.5, "val_fscore": 0.7},
    ]
    trial = TrialRecord(id="t0", number=0, values={}, reports=reports)
    assert trial.best["epoch"] == 1
    for report, score in zip(reports, (0.6, 0.9), strict=True):
        report["val_listening"] = score
    assert TrialRecord(id="t0", number=0, values={}, reports=reports).best["epoch"] == 2


class MarksLoudSeconds(torch.nn.Module):
    """Marks everything in seconds that are louder than half of all, so other sound gives other masks."""

    def forward(self, frames: torch.Tensor, log_mel: torch.Tensor) -> torch.Tensor:
        loud = log_mel.mean((2, 3, 4)) > -3
        return (loud.float() * 20 - 10)[:, :, None, None, None].expand(*loud.shape, 1, *frames.shape[-2:])


@pytest.fixture
def alone(tmp_path):
    """A process group of this process alone."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def test_a_validation_by_listening_also_scores_the_same_clips_with_swapped_sound(make_config, data, alone):
    plain = make_config("x", data=OTHER_SOUNDS | {"root": str(data)})
    listening = make_config("x", **LISTENING, data=OTHER_SOUNDS | {"root": str(data)})
    assert (plain.training.criterion, listening.training.criterion) == ("miou", "listening")
    engine = SimpleNamespace(device="cpu", module=SimpleNamespace(trained_buffers=list))
    watchdog = SimpleNamespace(beating=lambda batches: batches)
    scores = {}
    for config in (plain, listening):
        batches = Batches(config, rank=0, world_size=1)
        validator = Validator(engine, MarksLoudSeconds(), batches=batches, watchdog=watchdog)
        scores[config.training.select_by] = validator.score()
    assert set(scores["J"]) == {"miou", "fscore"}
    found = scores["listening"]
    assert {name: found[name] for name in scores["J"]} == scores["J"]
    assert found["listening"] == pytest.approx(2 * found["miou"] - found["miou_swapped"])
    assert found["miou_swapped"] != found["miou"]
    swapped = batches.swapped_validation()
    pairs = list(zip(batches.validation(), swapped, strict=True))
    assert all(right["name"] == other["name"] for right, other in pairs)
    assert all(bool((right["log_mel"] != other["log_mel"]).any((1, 2, 3, 4)).all()) for right, other in pairs)
