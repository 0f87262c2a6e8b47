"""From an upload's bytes to aligned clips, without a server."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from sdavs_platform.config.tree import ServeConfig
from sdavs_serve.decoding.media import decode_pictures, decode_stereo, decode_video, windows
from sdavs_serve.encoding.overlay_video import OverlayVideoWriter
from sdavs_serve.encoding.responses import COLOURS, SegmentedFrame, decode_rle, draw_overlay, encode_rle
from sdavs_serve.errors import MediaError, RequestError
from sdavs_serve.http.form import negotiate
from sdavs_serve.inference.served_model import frame_regions
from sdavs_serve.model_calls import Masks, regions_of
from sdavs_serve.schema import Timings
from waiting import patience

from sdavs_model.masks import masks_at_size

LIMITS = ServeConfig()
TIMINGS = Timings(decode=0, model=0, encode=0, total=0)
RATE = 16_000


@pytest.fixture(scope="module")
def chirp():
    """[5 * 16000]: what the videos of `make_video` sound like."""
    time = np.arange(5 * RATE) / RATE
    return (0.5 * np.sin(2 * np.pi * (200 + 200 * time) * time)).astype(np.float32)


@pytest.mark.parametrize("kind", ["mp4", "mov", "webm", "matroska"])
@pytest.mark.parametrize("video_fps", [1, 5])
def test_picture_and_sound_of_second_i_meet_in_sample_i(make_video, chirp, kind, video_fps):
    samples = list(decode_video(make_video(3, kind=kind, fps=video_fps), fps=1, limits=LIMITS))
    assert [round((int(sample.picture[0, 0, 0]) - 20) / 25) for sample in samples] == [0, 1, 2]
    for index, sample in enumerate(samples):
        heard, played = sample.second[800:-800], chirp[index * RATE :][800 : RATE - 800]
        assert np.corrcoef(heard, played)[0, 1] > 0.99


def test_at_another_rate_each_sample_still_has_the_second_around_it(make_video, chirp):
    samples = list(decode_video(make_video(3, kind="mov"), fps=2, limits=LIMITS))
    assert [sample.time_s for sample in samples] == [0.25, 0.75, 1.25, 1.75, 2.25, 2.75]
    first, middle = samples[0].second, samples[3].second
    assert not first[: RATE // 4].any(), "silence before the sound begins"
    assert np.corrcoef(first[RATE // 4 :], chirp[: 3 * RATE // 4])[0, 1] > 0.99
    assert np.corrcoef(middle, chirp[round(1.25 * RATE) : round(2.25 * RATE)])[0, 1] > 0.99


def test_a_wav_arrives_sample_for_sample(make_wav, make_png, chirp):
    picture = make_png(np.zeros((8, 8, 3), np.uint8))
    samples = list(decode_pictures([picture] * 5, make_wav(chirp), fps=1, limits=LIMITS))
    written = np.int16(chirp * 32767).astype(np.float32) / 32768
    assert np.array_equal(np.concatenate([sample.second for sample in samples]), written)


def test_another_sound_takes_the_place_of_a_videos_own_and_silence_follows_it(make_video, make_wav, chirp):
    video = make_video(3)
    own = list(decode_video(video, fps=1, limits=LIMITS))
    other = list(decode_video(video, fps=1, limits=LIMITS, sound=make_wav(-chirp[: RATE // 2])))
    written = np.int16(-chirp[: RATE // 2] * 32767).astype(np.float32) / 32768
    assert np.array_equal(other[0].second, np.pad(written, (0, RATE // 2)))
    assert not other[1].second.any()
    assert not other[2].second.any()
    assert all(np.array_equal(a.picture, b.picture) for a, b in zip(own, other, strict=True))
    with pytest.raises(MediaError, match="not a wav, flac, ogg or mp3") as refused:
        list(decode_video(video, fps=1, limits=LIMITS, sound=b"a text"))
    assert refused.value.field == "audio"


def test_the_last_window_reaches_back_to_be_full(make_video):
    cut = list(windows(decode_video(make_video(5), fps=1, limits=LIMITS), num_frames=3))
    assert [(window.first, len(window.samples), window.clip.num_frames) for window in cut] == [
        (0, 3, 3),
        (3, 2, 3),
    ]
    assert np.array_equal(cut[1].clip.frames[0], cut[0].clip.frames[2])
    (short,) = windows(decode_video(make_video(2), fps=1, limits=LIMITS), num_frames=3)
    assert (short.clip.num_frames, len(short.samples)) == (2, 2)


@pytest.mark.parametrize("kind", ["mp4", "webm", "matroska"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.7])
def test_a_video_that_was_cut_short_is_refused(make_video, kind, share):
    video = make_video(6, kind=kind)
    with pytest.raises(MediaError) as refused:
        list(decode_video(video[: int(len(video) * share)], fps=1, limits=LIMITS))
    assert (refused.value.kind, refused.value.status, refused.value.field) == ("corrupt", 422, "video")


@pytest.mark.parametrize(("limit", "value"), [("max_seconds", 3), ("max_frames", 3), ("max_pixels", 1000)])
def test_an_exceeded_limit_is_named(make_video, limit, value):
    with pytest.raises(MediaError) as refused:
        list(decode_video(make_video(5), fps=1, limits=LIMITS.model_copy(update={limit: value})))
    assert (refused.value.limit, refused.value.status) == (limit, 413)


def test_a_faulty_picture_among_many_is_named(make_wav, make_png, chirp):
    small, large = (make_png(np.full((side, side, 3), 99, np.uint8)) for side in (8, 9))
    sound = make_wav(chirp)
    for faulty, message in (
        (large, "differs in size"),
        (large[:50], "cannot be decoded"),
        (sound, "not a png"),
    ):
        with pytest.raises(MediaError, match=message) as refused:
            list(decode_pictures([small, small, faulty], sound, fps=1, limits=LIMITS))
        assert refused.value.field == "frames[2]"


def test_a_mask_survives_its_run_lengths():
    mask = (np.random.default_rng(0).random((31, 17)) > 0.7).astype(np.uint8)
    assert np.array_equal(decode_rle(encode_rle(mask)), mask)


def test_a_semantic_frame_names_each_class_and_all_of_them_together():
    mask = np.zeros((4, 8), np.uint8)
    mask[:, 2:4], mask[:2, 6:] = 1, 2
    regions = regions_of(mask, np.choose(mask, [0.9, 0.75, 0.5]))
    frame = SegmentedFrame(index=0, time_s=0.5, picture=None, size=(4, 8), regions=regions)
    assert np.array_equal(frame.mask, mask)
    answer = frame.to_schema(["background", "dog", "cat"])
    assert [(one.index, one.name, one.area) for one in answer.classes] == [
        (1, "dog", 0.25),
        (2, "cat", 0.125),
    ]
    assert np.array_equal(decode_rle(answer.classes[1].rle), mask == 2)
    assert np.array_equal(decode_rle(answer.rle), mask > 0)
    assert answer.score == pytest.approx((0.75 * 8 + 0.5 * 4) / 12)


def test_pixels_of_a_semantic_model_get_their_most_probable_class():
    logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    frames = frame_regions(logits, size=(8, 8), threshold=0.9)
    masks = Masks(version=1, size=(8, 8), frames=frames).masks
    assert np.array_equal(masks, logits.argmax(1))
    confidence = logits.softmax(1).max(1).values.numpy()
    assert frames[0][2].score == pytest.approx(confidence[0][masks[0] == 2].mean(), rel=1e-5)
    assert set(frames[0]) == {1, 2}


@pytest.mark.parametrize("num_classes", [1, 5])
def test_masks_are_those_of_all_frames_and_classes_resized_at_once(num_classes, monkeypatch):
    monkeypatch.setattr("sdavs_model.masks.MAX_VALUES", 3 * 135 * 240)
    generator = torch.Generator().manual_seed(num_classes)
    logits = 3 * torch.randn(3, num_classes, 24, 24, generator=generator)
    predicted = masks_at_size(logits, size=(135, 240), threshold=0.4)
    at_once = torch.nn.functional.interpolate(logits, (135, 240), mode="bilinear", align_corners=False)
    if num_classes == 1:
        confidence = at_once[:, 0].sigmoid()
        classes = (confidence > 0.4).to(torch.uint8)
    else:
        confidence, classes = at_once.softmax(1).max(1)
    assert torch.equal(predicted.classes, classes.to(torch.uint8))
    torch.testing.assert_close(predicted.confidence, confidence)
    frames = frame_regions(logits, size=(135, 240), threshold=0.4)
    assert np.array_equal(Masks(version=1, size=(135, 240), frames=frames).masks, classes)


PEAK = """
import resource, torch
from sdavs_serve.inference.served_model import frame_regions
torch.set_num_threads(1)
logits = torch.zeros(1, 71, 16, 16)
logits[:, 70, 4:] = 1
frame_regions(logits, size=(64, 64), threshold=0.5)  # loads what the first call loads
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
frames = frame_regions(logits, size=(2160, 3840), threshold=0.5)
assert set(frames[0]) == {70}
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_masks_of_71_classes_at_4k_take_a_third_of_the_memory_that_their_logits_would():
    run = [sys.executable, "-c", PEAK]
    ran = subprocess.run(run, capture_output=True, text=True, check=True, timeout=patience(60))
    assert float(ran.stdout) < 71 * 2160 * 3840 * 4 / 1e6 / 3


def test_the_overlay_changes_masked_pixels_only():
    picture = np.full((8, 8, 3), 100, np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 1
    drawn = draw_overlay(picture, mask)
    assert np.array_equal(drawn[mask == 0], picture[mask == 0])
    assert np.array_equal(drawn[2, 2], COLOURS[1]), "the outline is opaque"
    assert (drawn[3, 3] != 100).any()
    assert (drawn[3, 3] != drawn[2, 2]).any()


def test_the_overlay_video_keeps_frames_and_sound_in_step(make_video, chirp):
    video = make_video(3, kind="webm")
    writer = OverlayVideoWriter(fps=1, sound=lambda until: decode_stereo(video, until=until))
    for index, sample in enumerate(decode_video(video, fps=1, limits=LIMITS)):
        odd = sample.picture[:47, :63]
        writer.add(
            SegmentedFrame(
                index=index,
                time_s=sample.time_s,
                picture=odd,
                size=(47, 63),
                regions={},
            )
        )
    answered = list(decode_video(writer.finish(TIMINGS).read(), fps=1, limits=LIMITS))
    assert [round((int(sample.picture[0, 0, 0]) - 20) / 25) for sample in answered] == [0, 1, 2]
    for index, sample in enumerate(answered):
        assert np.corrcoef(sample.second[800:-800], chirp[index * RATE :][800 : RATE - 800])[0, 1] > 0.99


def test_the_accept_header_chooses_the_answer():
    assert negotiate("*/*") == "application/json"
    assert negotiate("image/*;q=0.5, video/mp4") == "video/mp4"
    assert negotiate("application/json;q=0, image/png") == "image/png"
    with pytest.raises(RequestError, match="can answer with"):
        negotiate("text/html")
