"""The endpoint as a user meets it: real Ray Serve, a real registered model in sqlite MLflow, real HTTP."""

import io
import json
import shutil
import socket
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
import ray
import torch
from PIL import Image
from ray import serve
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from sdavs_platform.config import ServeConfig
from sdavs_platform.tracking.client import experiment_id, mlflow_client
from sdavs_platform.tracking.registry import promote, register_artifact
from sdavs_serve.app import deploy, wait_ready
from sdavs_serve.client import Client, EndpointError, save_mask
from sdavs_serve.encode import decode_rle
from sdavs_serve.inference import ServedModel, masks_at_frame_size
from sdavs_serve.media import decode_video, windows
from sdavs_serve.messages import Target
from sdavs_serve.schema import Rle

from sdavs_model import SDAVSConfig, build_model, save_artifact

SMALL = SDAVSConfig(
    backbone="pvt_v2_b0", image_size=64, num_frames=2, width=32, num_heads=4, vggish_width=0.125
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def mask_of(frame: dict) -> np.ndarray:
    return decode_rle(Rle(**frame["rle"]))


class Stack:
    """A private Ray, an MLflow database and what the tests need to know about them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.config = ServeConfig(
            tracking_uri=self.uri,
            port=free_port(),
            max_seconds=5,
            max_frames=20,
            max_upload_mb=1,
            max_requests=4,
            max_batch_frames=8,
        )
        self.dashboard = ""
        self.address = ""

    def register(self, seed: int, **changes: object) -> int:
        """A model of random weights as the next version of `sdavs`."""
        torch.manual_seed(seed)
        config = SDAVSConfig.from_dict(SMALL.to_dict() | changes)
        artifact = self.folder / f"artifact-{seed}"
        classes = ["background", "sounding"] if config.num_classes == 1 else ["background", "a", "b"]
        lineage = {"data_digest": f"digest-{seed}"}
        save_artifact(
            artifact, model=build_model(config).eval(), classes=classes, metrics={}, lineage=lineage
        )
        client = mlflow_client(self.uri)
        run = client.create_run(experiment_id(client, "test")).info.run_id
        return register_artifact(artifact, name="sdavs", config=config, run_id=run, tags={}, uri=self.uri)

    def deploy(self) -> None:
        self.address = deploy(self.config, dashboard=self.dashboard)
        wait_ready(self.address, self.config, dashboard=self.dashboard)

    def post(self, data: dict | None = None, accept: str = "application/json", **files: object):
        return httpx.post(
            f"{self.address}/v1/segment",
            files=files,
            data=data or {},
            headers={"Accept": accept},
            timeout=60,
        )

    def replicas(self) -> dict[str, str]:
        """Deployment -> process of its only replica."""
        deployments = ServeSubmissionClient(self.dashboard).get_serve_details()["applications"]["sdavs"]
        return {
            name: ",".join(replica["actor_id"] for replica in deployment["replicas"])
            for name, deployment in deployments["deployments"].items()
        }


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory):
    made = Stack(tmp_path_factory.mktemp("stack"))
    version = made.register(seed=1)
    promote("sdavs", version, uri=made.uri)
    # Not pytest's folder: Ray's sockets need a short path.
    ray_folder = tempfile.mkdtemp(prefix="rs-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDAVS_HOME", str(made.folder / "home"))
        context = ray.init(
            num_cpus=2, include_dashboard=True, dashboard_port=free_port(), _temp_dir=ray_folder
        )
        made.dashboard = f"http://{context.dashboard_url}"
        try:
            made.deploy()
            yield made
        finally:
            serve.shutdown()
            ray.shutdown()
            shutil.rmtree(ray_folder, ignore_errors=True)


def test_served_masks_equal_the_models_own_bit_for_bit(stack, make_video):
    video = make_video(3, kind="matroska")
    answer = stack.post(video=video)
    assert answer.status_code == 200, answer.text
    served = [mask_of(frame) for frame in answer.json()["frames"]]

    torch.set_num_threads(1)  # as in the replica: another number of threads adds up in another order
    version = int(answer.headers["X-Model-Version"])
    model = ServedModel.load(Target(name="sdavs", version=version), config=stack.config)
    own = []
    for window in windows(decode_video(video, fps=1, limits=stack.config), num_frames=SMALL.num_frames):
        masks, _ = masks_at_frame_size(
            model.run([model.prepare(window.clip)])[0], size=(48, 64), threshold=0.5
        )
        own += list(masks[-len(window.samples) :])
    assert np.array_equal(served, own)
    assert 0 < np.mean(own) < 1, "an empty or full mask would prove nothing"


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
    first = mask_of(stack.post(video=video).json()["frames"][0])

    png = stack.post(video=video, accept="image/png")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png.content))) // 255, first)

    archive = zipfile.ZipFile(io.BytesIO(stack.post(video=video, accept="application/zip").content))
    assert archive.namelist() == ["00000.png", "00001.png", "00002.png", "segmentation.json"]
    assert len(json.loads(archive.read("segmentation.json"))["frames"]) == 3
    assert np.array_equal(np.asarray(Image.open(archive.open("00000.png"))) // 255, first)

    overlay = stack.post(video=video, accept="video/mp4")
    assert overlay.headers["content-type"] == "video/mp4"
    assert len(list(decode_video(overlay.content, fps=1, limits=stack.config))) == 3
    with av.open(io.BytesIO(overlay.content)) as container:
        assert container.duration / av.time_base == pytest.approx(3, abs=0.1)


def test_pictures_with_a_wav_get_one_mask_a_second(stack, make_wav, make_png):
    rng = np.random.default_rng(0)
    files = [
        ("frames", (f"../{i}.png", make_png(rng.integers(0, 255, (40, 50, 3), np.uint8)))) for i in range(3)
    ]
    files.append(("audio", ("/etc/passwd", make_wav(rng.normal(0, 0.1, 3 * 16_000).clip(-1, 1)))))
    answer = httpx.post(f"{stack.address}/v1/segment", files=files, timeout=60)
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
        assert httpx.get(f"{stack.address}/healthz", timeout=10).status_code == 200
        assert httpx.get(f"{stack.address}/readyz", timeout=10).status_code == 200
        statuses = [answer.result() for answer in answers]
    assert {answer.status_code for answer in statuses} == {200, 429}
    busy = next(answer for answer in statuses if answer.status_code == 429)
    assert busy.json()["limit"] == "max_requests"
    assert int(busy.headers["Retry-After"]) > 0


def test_the_client_saves_masks_and_overlays(stack, make_video, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(make_video(2))
    with Client(stack.address) as client:
        answer = client.segment(tmp_path / "clip.mp4")
        save_mask(answer.frames[0], tmp_path / "mask.png")
        client.save_overlay_picture(tmp_path / "clip.mp4", tmp_path / "overlay.png", frame=1)
        client.save_overlay_video(tmp_path / "clip.mp4", tmp_path / "overlay.mp4")
        (tmp_path / "text.mp4").write_text("not a video")
        with pytest.raises(EndpointError, match="not an mp4") as refused:
            client.segment(tmp_path / "text.mp4")
    assert refused.value.problem.status == 415
    assert Image.open(tmp_path / "mask.png").size == Image.open(tmp_path / "overlay.png").size == (64, 48)
    assert len(list(decode_video((tmp_path / "overlay.mp4").read_bytes(), fps=1, limits=stack.config))) == 2


def test_openapi_describes_every_form_of_answer(stack):
    paths = httpx.get(f"{stack.address}/openapi.json", timeout=10).json()["paths"]
    responses = paths["/v1/segment"]["post"]["responses"]
    assert set(responses["200"]["content"]) == {
        "application/json",
        "image/png",
        "application/zip",
        "video/mp4",
    }
    assert {"413", "415", "422", "429", "503", "504"} <= set(responses)


def test_a_new_champion_is_swapped_in_under_load_and_a_bad_one_is_refused(stack, make_video):
    video = make_video(2)
    replicas = stack.replicas()
    with ThreadPoolExecutor(2) as pool:
        second = stack.register(seed=2)
        promote("sdavs", second, uri=stack.uri)
        answers = [pool.submit(stack.post, video=video) for _ in range(12)]
        stack.deploy()
        answers += [pool.submit(stack.post, video=video) for _ in range(2)]
        results = [answer.result() for answer in answers]
    assert [answer.status_code for answer in results] == [200] * len(results)
    assert results[-1].headers["X-Model-Version"] == str(second)
    assert stack.replicas() == replicas, "a new version must not restart the replicas"

    promote("sdavs", stack.register(seed=3, num_classes=3), uri=stack.uri)
    with pytest.raises(RuntimeError, match="3 classes; this endpoint serves binary masks"):
        stack.deploy()
    status = httpx.get(f"{stack.address}/v1/model", timeout=10).json()
    assert status["model"]["version"] == str(second)
    assert "3 classes" in status["refused"]
    assert stack.post(video=video).headers["X-Model-Version"] == str(second)


def test_weights_that_are_not_the_registered_ones_are_refused(stack):
    version = stack.register(seed=4)
    weights = (stack.folder / "mlartifacts").rglob("model.safetensors")
    newest = max(weights, key=lambda path: path.stat().st_mtime_ns)
    damaged = bytearray(newest.read_bytes())
    damaged[-1] ^= 1
    newest.write_bytes(damaged)
    serving = httpx.get(f"{stack.address}/v1/model", timeout=10).json()["model"]["version"]
    promote("sdavs", version, uri=stack.uri)
    with pytest.raises(RuntimeError, match="sha256 differs"):
        stack.deploy()
    assert httpx.get(f"{stack.address}/v1/model", timeout=10).json()["model"]["version"] == serving
