"""A model that tells classes apart, from the registry to every form of response and to the page."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from sdavs_platform.local.sample import write_video
from sdavs_serve.encoding.responses import COLOURS, decode_rle
from sdavs_serve.schema import Rle
from stack import mask_of
from visitor import drawn, give, set_opacity, show

from sdavs_model.golden import standard_clip

NUM_FRAMES = 5


@pytest.fixture(scope="module")
def version(stack):
    """A semantic version that took over from the binary one; afterwards that one serves again."""
    before, semantic = stack.serving(), stack.register(semantic=True)
    try:
        stack.promote(semantic)
        stack.until(lambda state: state.served.version == semantic and state.phase == "idle")
        yield semantic
    finally:
        stack.promote(before)
        stack.until(lambda state: state.served.version == before)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> bytes:
    """The drawn clip, of which the model calls a twentieth "b"."""
    path = Path(tmp_path_factory.mktemp("clip")) / "clip.mp4"
    write_video(standard_clip(NUM_FRAMES), path)
    return path.read_bytes()


def classes_of(frame: dict) -> np.ndarray:
    """[H, W] uint8: 0, 1 for a, 2 for b."""
    labels = np.zeros(frame["size"], np.uint8)
    for found in frame["classes"]:
        labels[decode_rle(Rle(**found["rle"])) > 0] = found["index"]
    return labels


def test_each_class_has_its_mask_in_json_its_value_in_png_and_zip_and_its_colour_in_overlays(
    stack, version, video
):
    body = stack.post(video=video).json()
    assert (body["model"]["version"], body["threshold"]) == (str(version), None)
    labels = [classes_of(frame) for frame in body["frames"]]
    assert set(np.unique(labels)) == {0, 1, 2}
    for frame, label in zip(body["frames"], labels, strict=True):
        assert np.array_equal(mask_of(frame), label > 0), "rle is all classes together"
        assert {found["index"]: found["name"] for found in frame["classes"]}.items() <= {
            1: "a",
            2: "b",
        }.items()
        assert all(0 < found["score"] <= 1 and found["area"] > 0 for found in frame["classes"])

    archive = zipfile.ZipFile(io.BytesIO(stack.post(video=video, accept="application/zip").content))
    for index, label in enumerate(labels):
        picture = Image.open(archive.open(f"{index:05d}.png"))
        assert np.array_equal(np.asarray(picture), label)
        assert np.array_equal(np.asarray(picture.convert("RGB")), COLOURS[label])
    frames = json.loads(archive.read("segmentation.json"))["frames"]
    assert all(np.array_equal(classes_of(frame), label) for frame, label in zip(frames, labels, strict=True))

    png = stack.post({"frame": "2"}, accept="image/png", video=video)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png.content))), labels[2])
    overlay = stack.post({"frame": "2", "overlay": "true"}, accept="image/png", video=video)
    pixels = np.asarray(Image.open(io.BytesIO(overlay.content)))
    for value in (1, 2):
        assert (pixels[labels[2] == value] == COLOURS[value]).all(1).any(), "its outline has its full colour"


def test_the_page_draws_each_class_in_its_colour_and_names_it(opened, stack, version, video):
    labels = [classes_of(frame) for frame in stack.post(video=video).json()["frames"]]
    at = max(range(NUM_FRAMES), key=lambda index: (labels[index] == 2).sum())
    give(opened, "clip.mp4", video)
    expect(opened.locator("#clip-name")).to_have_text("clip.mp4")
    show(opened, at, NUM_FRAMES)
    set_opacity(opened, "End")
    pixels = drawn(opened)
    scale = pixels.shape[1] // labels[at].shape[1]
    middle = pixels[scale // 2 :: scale, scale // 2 :: scale].astype(int)
    for value, name in ((1, "a"), (2, "b")):
        there = np.abs(middle[labels[at] == value] - COLOURS[value].astype(int)).max(1) <= 2
        assert there.mean() > 0.5, "scaling blurs the edges alone"
        expect(opened.locator("#frame-facts dt", has_text=name).last).to_be_visible()
        swatch = opened.locator(f"#frame-facts .colour-{value - 1}")
        expect(swatch).to_have_text(name)
