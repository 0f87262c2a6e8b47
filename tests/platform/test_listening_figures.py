"""What an evaluation adds to J and F: the deaf oracle from data, AVSBench-Robust, intervals, without a cluster."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sdavs_platform.analysis import suite
from sdavs_platform.analysis.result import AnalysisResult
from sdavs_platform.config.tree import DataConfig, RunConfig
from sdavs_platform.evaluation.listening import (
    ROWS,
    flat_intervals,
    intervals_of,
    left_out_text,
    listening_text,
    robust_scores,
    score_deaf_oracle,
    sounds_of,
)
from sdavs_platform.evaluation.scoring import score_sound, score_sounds
from sdavs_platform.tuning.measurements import _split_scores
from sdavs_platform.tuning.report.architecture_tables import SOUNDS
from sdavs_platform.tuning.study import parse_study

from sdavs_model import PreprocessConfig, SDAVSConfig, build_model
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.data.realav.build import RealAVConfig, prepare
from sdavs_model.data.training_clips import TrainingClips, open_training_clips
from sdavs_model.metrics import fscore_in_words, protocol_in_words
from sdavs_model.metrics.listening import SoundMetrics


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("realav")
    prepare(
        folder,
        RealAVConfig(
            num_train=1, num_val=1, num_test_new_scenes=8, num_test_strict=1, num_test_strict_wide=0, size=48
        ),
    )
    return folder


def open_clips(root: Path) -> TrainingClips:
    preprocessor = Preprocessor(PreprocessConfig(image_size=32))
    return open_training_clips("avsbench-ms3", root, "test_new_scenes", preprocessor)


def test_the_deaf_oracle_marks_all_visible_objects_and_nothing_else(root):
    clips = open_clips(root)
    metrics = score_deaf_oracle(clips)
    marked = torch.stack([(clips.objects(index) > 0).float().mean() for index in range(8)]).mean()
    assert metrics.compute()["fpr"] == pytest.approx(float(marked))
    # Every object that sounds is visible, so J of a frame with sound is its area over that of all objects.
    for index in range(8):
        masks, visible = clips[index]["masks"] > 0, clips.objects(index) > 0
        sounding, all_visible = masks.flatten(1).sum(1).float(), visible.flatten(1).sum(1).float()
        of_frame = torch.where(sounding > 0, sounding / all_visible, 1 - all_visible / masks[0].numel())
        name = clips.source.files[index].name
        assert metrics.clip_miou[name] == pytest.approx(float(of_frame.mean()), abs=1e-5)


def test_a_data_set_of_an_earlier_version_gives_the_reason_instead_of_the_row(root, tmp_path):
    old = shutil.copytree(root, tmp_path / "old")
    shutil.rmtree(old / "Multi-sources/ms3_data/visible_objects")
    with pytest.raises(ValueError, match="no file of the visible objects"):
        score_deaf_oracle(open_clips(old))


class MarksAllWhenItHears(torch.nn.Module):
    """Marks the whole frame in seconds that are not silent."""

    def forward(self, frames: torch.Tensor, log_mel: torch.Tensor) -> torch.Tensor:
        loud = log_mel.mean((2, 3, 4)) > -4  # [B, T]; silence is log(0.01)
        return (loud.float() * 20 - 10)[:, :, None, None, None].expand(*loud.shape, 1, *frames.shape[-2:])


def test_a_model_that_hears_only_whether_there_is_sound_is_found_out_by_off_screen_sound_and_noise(root):
    sounds, left_out = sounds_of(open_clips(root))
    assert left_out == {}
    assert list(sounds) == list(ROWS.values())
    scores = {
        row: score_sound(MarksAllWhenItHears(), heard, metrics=SoundMetrics()).compute()
        for row, heard in sounds.items()
    }
    assert scores["muted audio"]["fpr"] == 0
    assert scores["white noise"]["fpr"] == 1
    assert scores["off-screen audio"]["fpr"] > 0.5
    robust = robust_scores(scores)
    negative = [scores[row]["fpr"] for row in ("muted audio", "white noise", "off-screen audio")]
    assert robust["g_fpr"] == pytest.approx(sum(negative) / 3)
    del scores["off-screen audio"]
    assert robust_scores(scores) == {}


@pytest.mark.slow
@pytest.mark.parametrize("caches_features", [True, False])
def test_sounds_that_are_scored_together_score_what_each_scores_alone(root, caches_features, monkeypatch):
    torch.manual_seed(0)
    config = SDAVSConfig(backbone="resnet10t", image_size=32, width=16, num_heads=2, vggish_width=0.125)
    model = build_model(config).eval()
    monkeypatch.setattr(type(config), "caches_features", caches_features)
    clips = open_clips(root)
    sounds, _ = sounds_of(clips)
    together = {row: SoundMetrics() for row in sounds}
    score_sounds(model, clips, sounds, metrics=together, batch_size=3)
    for row, heard in sounds.items():
        alone = score_sound(model, heard, metrics=SoundMetrics(), batch_size=3)
        assert together[row].compute() == alone.compute()
        assert together[row].clip_miou == alone.clip_miou


def test_a_study_of_architectures_scores_all_sounds_of_robust(root):
    model = SDAVSConfig(backbone="resnet10t", image_size=32, width=16, num_heads=2, vggish_width=0.125)
    config = RunConfig(data=DataConfig(root=str(root)), model=model)
    conditions = parse_study("architectures/sdavs", config).conditions
    torch.manual_seed(1)  # random weights that mark a part of each frame
    scores = _split_scores(
        build_model(model).eval(), config, "test_new_scenes", conditions=conditions, device="cpu"
    )
    assert {*scores} == {*SOUNDS.values()} == {*conditions}
    assert {len(values) for own in scores.values() for values in own.values()} == {8}
    assert scores["silence"]["fpr"] != scores["white noise"]["fpr"]


def test_intervals_resample_assets_where_they_are_recorded_and_clips_where_not():
    right = {f"clip{number}": 0.5 + 0.01 * (number % 3) for number in range(40)}
    scores = {
        "right audio": right,
        "swapped audio": {name: value - 0.3 for name, value in right.items()},
        "white noise": dict.fromkeys(right, 0.1),
    }
    recorded = {name: [f"photo{number % 4}", f"sound{number % 3}"] for number, name in enumerate(right)}
    intervals, over = intervals_of(scores, recorded)
    assert over.startswith("7 photographs and recordings")
    assert list(intervals) == [*scores, "right audio - swapped audio"]
    assert intervals["right audio - swapped audio"] == pytest.approx({"mean": 0.3, "low": 0.3, "high": 0.3})
    right_interval = intervals["right audio"]
    assert right_interval["low"] < right_interval["mean"] < right_interval["high"]
    alone, over = intervals_of(scores, {name: [] for name in right})
    assert over.startswith("40 clips")
    assert alone["right audio"]["high"] - alone["right audio"]["low"] < (
        right_interval["high"] - right_interval["low"]
    )
    assert intervals_of({"right audio": {"a": 0.5}}, {"a": []})[0] == {}
    assert flat_intervals({"right audio - deaf oracle": {"mean": 0.1, "low": -0.1, "high": 0.2}}) == {
        "right_audio_minus_deaf_oracle/low": -0.1,
        "right_audio_minus_deaf_oracle/high": 0.2,
    }


def test_reports_say_how_many_videos_share_a_threshold():
    assert fscore_in_words() == "F at the best threshold of each video (videos_per_batch 1)"
    in_words = protocol_in_words("object", mode="official", videos_per_batch=4)
    assert in_words.endswith("official figures; F at the best threshold of 4 videos (videos_per_batch 4)")
    assert "videos_per_batch" not in protocol_in_words("object", mode="corrected", videos_per_batch=1)
    assert "videos_per_batch" not in protocol_in_words("vpo", mode="official", videos_per_batch=1)


def test_an_analysis_is_written_and_shown_before_it_is_logged(monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr(suite, "write_result", lambda result, folder: done.append("written") or folder)
    monkeypatch.setattr(suite, "log_result", lambda *_, **__: done.append("logged"))
    monkeypatch.setattr(suite, "log_or_warn", lambda what, log, uri: log() is None)
    result = AnalysisResult(name="listening", numbers={}, rows=[], pictures={}, metrics={}, table="")
    inputs = SimpleNamespace(subject=SimpleNamespace(name="sdavs-1", run_id="r1"))
    request = suite.Request(names=("listening",), out=str(tmp_path), tracking_uri="sqlite://")
    suite._keep(result, inputs, request, show=lambda shown: done.append("shown"))
    assert done == ["written", "shown", "logged"]


def test_the_lines_below_a_table_name_figures_what_was_resampled_and_what_is_missing():
    lines = listening_text(
        robust={"g_miou": 0.61, "g_fscore": 0.7, "g_fpr": 0.02},
        intervals={"right audio": {"mean": 0.5, "low": 0.4, "high": 0.6}},
        over="40 clips",
    )
    assert lines[0].startswith("AVSBench-Robust: G-mIoU 0.610, G-F 0.700, G-FPR 0.020")
    assert lines[1].splitlines()[1].split() == ["right", "audio", "0.500", "0.400", "0.600"]
    assert "bootstrap over 40 clips" in lines[2]
    assert listening_text(robust={}, intervals={}, over="") == []
    assert list(left_out_text({"deaf oracle": "unknown"})) == ["left out: deaf oracle (unknown)"]
