"""What a model heard and did not see, from its scores to the response."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from sdavs_serve.decoding.media import Sample, Window
from sdavs_serve.encoding.responses import SegmentedFrame
from sdavs_serve.http.segmenter import _frames
from sdavs_serve.inference.served_model import ServedModel
from sdavs_serve.model_calls import Masks

from sdavs_model import build_model, config_from_dict
from sdavs_model.artifact_files import signature
from sdavs_model.data.core.clip import SAMPLE_RATE, Clip
from sdavs_model.data.core.preprocess import Preprocessor

SIZES = {"backbone": "test_efficientnet", "image_size": 32, "audio_encoder": "vggish", "vggish_width": 0.125}
CLASSES = ("bell", "cat", "dog")
DDESEG = {
    "architecture": "ddeseg",
    "bank_classes": CLASSES,
    "num_nearest": 2,
    "token_width": 8,
    "head_width": 8,
}


def served(**values) -> ServedModel:
    torch.manual_seed(0)
    model = build_model(config_from_dict(SIZES | values)).eval()
    loaded = SimpleNamespace(
        model=model, config=model.config, preprocessor=Preprocessor(model.config.preprocess)
    )
    return ServedModel(loaded=loaded, release=None, folder=Path(), device=torch.device("cpu"))


def clip(num_frames: int) -> Clip:
    rng = np.random.default_rng(num_frames)
    return Clip(
        name="a",
        frames=rng.integers(0, 255, (num_frames, 20, 30, 3), np.uint8),
        waveform=rng.uniform(-0.5, 0.5, num_frames * 16_000).astype(np.float32),
    )


def test_each_second_of_each_clip_has_its_own_sounds():
    model = served(**DDESEG)
    inputs = [model.prepare(clip(length)) for length in (2, 3, 2)]
    predictions = model.run(inputs)
    assert [len(predicted.sounds) for predicted in predictions] == [2, 3, 2]
    assert all(len(second) == 2 for predicted in predictions for second in predicted.sounds)
    first = predictions[0].sounds[0]
    assert {sound.name for sound in first} <= set(CLASSES)
    assert first[0].distance <= first[1].distance
    assert all(0 < sound.seen < 1 for sound in first)
    (alone,) = model.run(inputs[1:2])
    assert [s.name for s in alone.sounds[2]] == [s.name for s in predictions[1].sounds[2]]


def test_other_models_say_nothing_of_sounds():
    model = served(architecture="sdavs", width=16, num_heads=2)
    (predicted,) = model.run([model.prepare(clip(2))])
    assert predicted.sounds is None
    assert predicted.logits.shape == (2, 1, 32, 32)
    assert set(signature(model.loaded.config)["outputs"]) == {"logits"}


def test_a_response_has_the_sounds_of_the_frames_that_it_shows():
    model = served(**DDESEG)
    shown = clip(3)
    (predicted,) = model.run([model.prepare(shown)])
    masks = Masks(version=1, size=(20, 30), frames=[{}] * 3, sounds=predicted.sounds)
    silence = np.zeros(SAMPLE_RATE, np.float32)
    samples = [Sample(time_s=float(i), picture=shown.frames[i], second=silence) for i in (1, 2)]
    # The first frame only gives context.
    window = Window(first=1, clip=shown, samples=samples)
    written = _frames(SimpleNamespace(window=window, masks=masks))
    frames = [frame.to_schema(["background", "sounding object"]) for frame in written]
    assert [frame.sounds[0].name for frame in frames] == [predicted.sounds[i][0].name for i in (1, 2)]
    assert frames[0].sounds[0].seen == predicted.sounds[1][0].seen
    plain = SegmentedFrame(index=0, time_s=0.0, picture=None, size=(20, 30), regions={})
    assert plain.to_schema(["background", "sounding object"]).sounds is None


def test_the_card_lists_them_among_the_outputs():
    outputs = signature(config_from_dict(SIZES | DDESEG))["outputs"]
    assert outputs["heard"]["classes"] == list(CLASSES)
    assert outputs["seen"]["dtype"] == "float32"
