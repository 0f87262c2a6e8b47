"""The endpoint as a user meets it: real Ray Serve, a real registered model in a real MLflow, real HTTP."""

import io
import json
import os
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import expect
from sdavs_platform.evaluation.predictions import write_masks
from sdavs_platform.evaluation.registered_model import open_for
from sdavs_platform.tracking.registry import fetch
from sdavs_serve.client import Client, EndpointError, save_mask
from sdavs_serve.decoding.media import decode_video
from sdavs_serve.encoding.responses import decode_rle
from sdavs_serve.schema import SegmentAnswer
from stack import mask_of
from waiting import patience

from sdavs_model import load_artifact
from sdavs_model.data.datasets import known_kind
from sdavs_model.data.realav.build import RealAVConfig, prepare

README = Path(__file__).resolve().parents[2] / "README.md"


def test_served_masks_are_those_that_evaluation_writes_bit_for_bit(stack, tmp_path):
    data = tmp_path / "data"
    prepare(
        data,
        RealAVConfig(
            num_train=1, num_val=1, num_test_new_scenes=1, num_test_strict=1, num_test_strict_wide=0, size=64
        ),
    )
    version = stack.serving()
    uri, kind = f"models:/sdavs/{version}", known_kind("auto", data)
    torch.set_num_threads(1)  # as in the replica: another number of threads adds up in another order
    # What `jobs/evaluate.py --masks` calls.
    write_masks(
        uri, root=str(data), kind=kind, splits=["test_strict"], folder=tmp_path / "masks", uri=stack.uri
    )
    written = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "masks").rglob("*.png"))]
    assert 0 < np.mean(written) < 255, "empty or full masks would prove nothing"

    loaded = load_artifact(fetch(uri, uri=stack.uri))
    (video,) = open_for(loaded, kind, data, "test_strict").source.files
    files = [("frames", path.read_bytes()) for path in video.frames]
    files.append(("audio", video.wav.read_bytes()))
    answer = stack.post(files=files)
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Model-Version"] == str(version)
    served = [mask_of(frame) for frame in answer.json()["frames"]]
    assert np.array_equal(np.array(served) * 255, written)


def test_the_answer_names_the_model_and_every_frames_time(stack, make_video):
    answer = stack.post(video=make_video(3), data={"fps": "2"})
    body = answer.json()
    assert [frame["time_s"] for frame in body["frames"]] == [0.25, 0.75, 1.25, 1.75, 2.25, 2.75]
    assert [frame["index"] for frame in body["frames"]] == list(range(6))
    assert all(frame["size"] == [48, 64] for frame in body["frames"])
    assert body["model"]["version"] == answer.headers["X-Model-Version"]
    assert body["model"]["alias"] == "champion"
    assert body["model"]["data_digest"].startswith("digest-")
    assert len(body["model"]["sha256"]) == 64
    assert body["model"]["run_id"]
    assert len(answer.headers.get_list("X-Request-Id")) == 1


def test_the_same_clip_comes_as_json_png_zip_and_video_with_its_sound(stack, make_video):
    video = make_video(3)
    plain = stack.post(video=video).json()
    first, info = mask_of(plain["frames"][0]), plain["model"]

    png = stack.post(video=video, accept="image/png")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png.content))) // 255, first)

    archive = zipfile.ZipFile(io.BytesIO(stack.post(video=video, accept="application/zip").content))
    assert archive.namelist() == ["00000.png", "00001.png", "00002.png", "segmentation.json"]
    assert len(json.loads(archive.read("segmentation.json"))["frames"]) == 3
    assert np.array_equal(np.asarray(Image.open(archive.open("00000.png"))) // 255, first)

    overlay = stack.post(video=video, accept="video/mp4")
    assert overlay.headers["content-type"] == "video/mp4"
    assert overlay.headers["X-Data-Digest"] == png.headers["X-Data-Digest"] == info["data_digest"]
    assert len(list(decode_video(overlay.content, fps=1, limits=stack.config))) == 3
    with av.open(io.BytesIO(overlay.content)) as container:
        assert container.duration / av.time_base == pytest.approx(3, abs=0.1)


def test_pictures_with_a_wav_get_one_mask_a_second(stack, make_wav, make_png):
    rng = np.random.default_rng(0)
    files = [
        ("frames", (f"../{i}.png", make_png(rng.integers(0, 255, (40, 50, 3), np.uint8)))) for i in range(3)
    ]
    files.append(("audio", ("/etc/passwd", make_wav(rng.normal(0, 0.1, 3 * 16_000).clip(-1, 1)))))
    answer = stack.post(files=files)
    assert answer.status_code == 200, answer.text
    assert [frame["size"] for frame in answer.json()["frames"]] == [[40, 50]] * 3


@pytest.mark.parametrize(
    ("status", "kind", "limit", "change"),
    [
        (422, "no_sound", None, lambda make: make(2, with_sound=False)),
        (422, "corrupt", None, lambda make: make(2)[:9000]),
        (415, "unsupported", None, lambda make: b"#EXTM3U\nfile:///etc/passwd\n" * 10),
        (413, "too_large", "max_seconds", lambda make: make(7)),
        (413, "too_large", "max_upload_mb", lambda make: make(2) + bytes(1_500_000)),
    ],
    ids=["no sound", "cut short", "not a video", "too long", "too many bytes"],
)
def test_a_bad_upload_is_refused_with_a_problem_that_says_why(stack, make_video, status, kind, limit, change):
    answer = stack.post(video=change(make_video))
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (status, f"urn:sdavs:problem:{kind}"), problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem.get("limit") == limit
    assert problem["request_id"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("field", "value"), [("fps", "0"), ("threshold", "2"), ("fsp", "2"), ("frame", "one")]
)
def test_a_wrong_field_is_named(stack, make_video, field, value):
    answer = stack.post(video=make_video(1), data={field: value})
    assert answer.status_code == 422
    assert answer.json()["field"] == field


def test_too_many_requests_at_once_get_429_and_the_probes_still_answer(stack, make_video):
    video = make_video(5, fps=5)
    with ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(stack.post, {"fps": "4"}, video=video) for _ in range(16)]
        assert httpx.get(f"{stack.address}/healthz", timeout=patience(10)).status_code == 200
        assert httpx.get(f"{stack.address}/readyz", timeout=patience(10)).status_code == 200
        statuses = [answer.result() for answer in answers]
    assert {answer.status_code for answer in statuses} == {200, 429}
    busy = next(answer for answer in statuses if answer.status_code == 429)
    assert busy.json()["limit"] == "max_requests"
    assert int(busy.headers["Retry-After"]) > 0


def test_the_client_asks_in_every_way_and_saves_masks_and_overlays(stack, make_video, make_wav, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(make_video(2))
    with Client(stack.address, api_key=stack.keys_by_scope["segment"]) as client:
        answer = client.segment(tmp_path / "clip.mp4")
        save_mask(answer.frames[0], tmp_path / "mask.png")
        client.save_overlay_picture(tmp_path / "clip.mp4", tmp_path / "overlay.png", frame=1)
        client.save_overlay_video(tmp_path / "clip.mp4", tmp_path / "overlay.mp4")
        client.save_masks(tmp_path / "clip.mp4", tmp_path / "masks.zip")
        assert client.segment(tmp_path / "clip.mp4", audio=tmp_path / "clip.mp4").frames == answer.frames
        (tmp_path / "sound.wav").write_bytes(make_wav(np.zeros(16_000)))
        (pictured,) = client.segment_frames([tmp_path / "overlay.png"], tmp_path / "sound.wav").frames
        assert pictured.size == (48, 64)
        job = client.submit(
            tmp_path / "clip.mp4", accept=("application/json", "application/zip"), overlay=True
        )
        assert client.wait(job.id, timeout_s=patience(60)).num_frames == 2
        assert client.result(job.id).frames == answer.frames
        client.save_result(job.id, tmp_path / "overlays.zip", accept="application/zip")
        client.cancel(job.id)
        assert "00001.png" in zipfile.ZipFile(tmp_path / "overlays.zip").namelist()
        windows = list(client.segment_windows(tmp_path / "clip.mp4"))
        assert [frame for window in windows for frame in window] == answer.frames
        (tmp_path / "text.mp4").write_text("not a video")
        with pytest.raises(EndpointError, match="not an mp4") as refused:
            client.segment(tmp_path / "text.mp4")
    assert refused.value.problem.status == 415
    assert Image.open(tmp_path / "mask.png").size == Image.open(tmp_path / "overlay.png").size == (64, 48)
    assert len(list(decode_video((tmp_path / "overlay.mp4").read_bytes(), fps=1, limits=stack.config))) == 2


def test_the_readmes_lines_for_curl_work_as_they_are_typed(stack, make_video, make_wav, make_png, tmp_path):
    endpoint = README.read_text().partition("## The endpoint")[2]
    lines = [line for line in endpoint.splitlines() if line.startswith("curl ")]
    assert len(lines) >= 6
    (tmp_path / "clip.mp4").write_bytes(make_video(2))
    for index in range(2):
        (tmp_path / f"{index}.png").write_bytes(make_png(np.full((48, 64, 3), 90 * index, np.uint8)))
    for name in ("sound.wav", "other.wav"):
        (tmp_path / name).write_bytes(make_wav(np.sin(np.arange(32_000) / 9)))
    (tmp_path / ".curlrc").write_text(f'header = "Authorization: {stack.admin["Authorization"]}"\nfail\n')
    for line in lines:
        here = line.replace("http://127.0.0.1:8000", stack.address)
        here = here.replace("X-Model-Version: 3", f"X-Model-Version: {stack.serving()}")
        subprocess.run(
            ["bash", "-c", here], cwd=tmp_path, env=os.environ | {"CURL_HOME": str(tmp_path)}, check=True
        )
    assert len(list(decode_video((tmp_path / "overlay.mp4").read_bytes(), fps=4, limits=stack.config))) == 8


def test_openapi_describes_every_form_of_response(stack):
    description = httpx.get(f"{stack.address}/openapi.json", timeout=patience(10)).json()
    responses = description["paths"]["/v1/segment"]["post"]["responses"]
    assert set(responses["200"]["content"]) == {
        "application/json",
        "image/png",
        "application/zip",
        "video/mp4",
        "application/x-ndjson",
    }
    assert {"413", "415", "422", "429", "503", "504"} <= set(responses)
    example = description["components"]["schemas"]["SegmentAnswer"]["example"]
    (frame,) = SegmentAnswer.model_validate(example).frames
    assert decode_rle(frame.rle).mean() == frame.area, "the example is a real mask"


def test_the_interactive_description_works_from_this_endpoint_alone(browser, stack, make_video, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(make_video(1))
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{stack.address}/docs")
    page.get_by_role("button", name="Authorize").first.click()
    page.locator(".modal-ux input").fill(stack.keys_by_scope["segment"])
    page.locator(".modal-ux").get_by_role("button", name="Apply credentials").click()
    page.locator(".modal-ux .close-modal").click()
    segment = page.locator(".opblock", has=page.get_by_text("/v1/segment", exact=True))
    segment.locator(".opblock-summary-control").click()
    segment.locator("input[type=file]").first.set_input_files(tmp_path / "clip.mp4")
    segment.get_by_role("button", name="Execute").click()
    expect(segment.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    assert all(address.startswith(f"{stack.address}/") for address in asked), asked
    page.close()


def test_a_pinned_version_is_used_or_the_request_is_refused(stack, make_video):
    serving = str(stack.serving())
    answer = stack.post(video=make_video(1), headers={"X-Model-Version": serving})
    assert answer.headers["X-Model-Version"] == serving
    refused = stack.post(video=make_video(1), headers={"X-Model-Version": "4711"})
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:sdavs:problem:not_loaded")
    assert f"loaded: {serving}" in refused.json()["detail"]


def test_prometheus_reads_what_was_served(stack, make_video):
    version = stack.post(video=make_video(2)).headers["X-Model-Version"]
    assert stack.metric("sdavs_frames_total", version=version) >= 2
    assert stack.metric("sdavs_requests_total", path="/v1/segment", status="200") >= 1
    assert stack.metric("sdavs_version_weight", version=version) == 1
    assert stack.metric("sdavs_rollout_phase", phase="idle") == 1
