"""From an upload's bytes to the response with a real decoder and a real model, both in the ways that pictures go."""

import asyncio
import io
import json
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from in_process import release
from PIL import Image
from sdavs_platform.config.serve import ServeConfig
from sdavs_serve.decoding.media import decode_video, windows
from sdavs_serve.decoding.sandboxed_decoders import Sandbox, Upload
from sdavs_serve.encoding.overlay_video import OverlayVideoWriter
from sdavs_serve.encoding.responses import JsonWriter, ZipWriter, decode_rle, draw_overlay
from sdavs_serve.http.segmenter import Segmenter
from sdavs_serve.inference.router import Route
from sdavs_serve.inference.served_model import ServedModel, frame_regions
from sdavs_serve.model_calls import Masks
from sdavs_serve.schema import SegmentAnswer

from sdavs_model import build_model, config_from_dict
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.masks import masks_at_size

CONFIG = ServeConfig(reuse_mb=0)
SIDE = 64


class Model:
    """A dispatcher that predicts in this process as a model replica does."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        sizes = {"backbone": "test_efficientnet", "vggish_width": 0.125, "width": 16, "num_heads": 2}
        model = build_model(config_from_dict(sizes | {"image_size": SIDE})).eval()
        self.preprocessor = Preprocessor(model.config.preprocess)
        loaded = SimpleNamespace(model=model, config=model.config, preprocessor=self.preprocessor)
        self.served = ServedModel(loaded=loaded, release=None, folder=Path(), device=torch.device("cpu"))
        self.sizes_received: set[tuple[int, ...]] = set()

    def logits(self, clip) -> torch.Tensor:
        """[T, 1, S, S], some of them positive."""
        logits = self.served.run([self.served.prepare(clip)])[0].logits
        return logits - logits.mean()

    async def predict(self, route: Route, clip, threshold: float) -> Masks:
        self.sizes_received.add(clip.frames.shape[1:3])
        size = clip.size or clip.frames.shape[1:3]
        frames = frame_regions(self.logits(clip), size=size, threshold=threshold)
        return Masks(version=1, size=size, frames=frames)


@pytest.fixture(scope="module")
def sandbox():
    made = Sandbox(CONFIG)
    yield made
    made.close()


def answer(model: Model, sandbox: Sandbox, video: bytes, new_writer, *, side_of_mirror: int = SIDE) -> bytes:
    """The body of the response to a video, while another version of that size is in the shadow."""
    served, other = (release(number).model_copy(update={"image_size": SIDE}) for number in (1, 2))
    route = Route(
        slot="a",
        release=served,
        alias="champion",
        who="active",
        stage=0,
        mirror=other.model_copy(update={"image_size": side_of_mirror}),
        mirror_fraction=0.0,
    )
    router = SimpleNamespace(choose=lambda **_: route)
    segmenter = Segmenter(config=CONFIG, router=router, dispatcher=model, sandbox=sandbox)
    with tempfile.TemporaryFile() as file:
        file.write(video)
        file.flush()
        upload = Upload(file=file, kind="video", parts=[(0, len(video))], fps=1, threshold=0.5)
        made = asyncio.run(segmenter.segment(upload, new_writer))
        with made.body as body:
            return body.read()


def test_masks_are_those_of_pictures_that_are_squashed_in_front_of_the_model(sandbox, make_video):
    video, model = make_video(5), Model()
    body = answer(model, sandbox, video, JsonWriter)
    assert model.sizes_received == {(SIDE, SIDE)}
    frames = SegmentAnswer.model_validate_json(body).frames
    expected = {}
    for window in windows(decode_video(video, fps=1, limits=CONFIG), num_frames=2):
        predicted = masks_at_size(model.logits(window.clip), size=(48, 64))
        fresh = predicted.classes[-len(window.samples) :].numpy()
        expected |= {window.first + offset: mask for offset, mask in enumerate(fresh)}
    assert len(frames) == len(expected) == 5
    for index, mask in expected.items():
        assert np.array_equal(decode_rle(frames[index].rle), mask)
    assert 0 < np.mean(list(expected.values())) < 1


def test_with_a_shadow_of_another_size_pictures_are_sent_as_displayed_and_the_answer_is_the_same(
    sandbox, make_video
):
    video, model = make_video(3), Model()
    usual = json.loads(answer(model, sandbox, video, JsonWriter))
    other = json.loads(answer(model, sandbox, video, JsonWriter, side_of_mirror=96))
    assert model.sizes_received == {(SIDE, SIDE), (48, 64)}
    assert other["frames"] == usual["frames"]


def test_overlays_are_drawn_on_the_pictures_as_displayed(sandbox, make_video):
    video, model = make_video(2), Model()
    body = answer(model, sandbox, video, lambda head, classes: ZipWriter(head, classes, overlay=True))
    assert model.sizes_received == {(SIDE, SIDE)}
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        frames = SegmentAnswer.model_validate_json(archive.read("segmentation.json")).frames
        for sample, frame in zip(decode_video(video, fps=1, limits=CONFIG), frames, strict=True):
            drawn = np.asarray(Image.open(archive.open(f"{frame.index:05d}.png")))
            assert np.array_equal(drawn, draw_overlay(sample.picture, decode_rle(frame.rle)))
    silent = answer(model, sandbox, video, lambda *_: OverlayVideoWriter(fps=1, sound=lambda until: iter(())))
    assert silent[4:8] == b"ftyp"
