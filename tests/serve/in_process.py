"""The endpoint's HTTP side in the test's own process: no Ray, no model, and decoders only where a test wants them."""

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from sdavs_platform.config.serve import JobsConfig, ServeConfig
from sdavs_serve.decoding.media import Sample, Timeline
from sdavs_serve.decoding.sandboxed_decoders import Sandbox, Upload
from sdavs_serve.http.ingress import create_app
from sdavs_serve.http.keys import KeyFile
from sdavs_serve.http.metrics import Metrics
from sdavs_serve.http.segmenter import Segmenter
from sdavs_serve.inference.dispatch import VersionGone
from sdavs_serve.inference.router import Route, Router
from sdavs_serve.model_calls import Masks, regions_of
from sdavs_serve.rollout.state import Release, RolloutState

from sdavs_model.data.core.clip import Clip


def segment_scope(key: str, *, content_type: str, accept: str = "*/*") -> dict[str, Any]:
    """The ASGI scope of a request to segment, for tests that send and receive its messages themselves."""
    headers = {"authorization": f"Bearer {key}", "content-type": content_type, "accept": accept}
    return {
        "type": "http",
        "method": "POST",
        "path": "/v1/segment",
        "raw_path": b"",
        "query_string": b"",
        "scheme": "http",
        "http_version": "1.1",
        "asgi": {"version": "3.0"},
        "server": ("test", 80),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }


class FrozenClock:
    """Shows `now` until a test moves it."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def release(version: int) -> Release:
    """A version that sees two frames at once."""
    target = {"name": "m", "version": version, "run_id": "r", "sha256": "w", "manifest_sha256": f"c{version}"}
    card = {"data_digest": "d", "architecture": "sdavs", "backbone": "b", "image_size": 64, "num_frames": 2}
    card = {name: value for name, value in card.items() if name in Release.model_fields}
    return Release(**target, **card, classes=["background", "sounding"], metrics={})


def serving(version: int = 1) -> RolloutState:
    """The document of an endpoint at rest."""
    return RolloutState(
        active="a", slots={"a": release(version), "b": None}, live=True, wanted=version, alias="champion"
    )


class FakeDecoder:
    """Every upload is a clip of five pictures of 4 x 4 pixels."""

    NUM_SAMPLES = 5

    def __init__(self) -> None:
        self.num_decodings = self.num_closed = 0

    def samples(self, upload: Upload, *, squash_to: int | None, keep_pictures: bool) -> Any:
        """As `Sandbox.samples`."""
        self.num_decodings += 1
        black, second = np.zeros((4, 4, 3), np.uint8), np.zeros(16_000, np.float32)
        found = [
            Sample(time_s=index + 0.5, picture=black, second=second) for index in range(self.NUM_SAMPLES)
        ]
        return SimpleNamespace(
            samples=lambda: iter(found),
            timeline=Timeline(picture_end_s=self.NUM_SAMPLES, sound_end_s=self.NUM_SAMPLES),
            close=self._close,
        )

    def _close(self) -> None:
        self.num_closed += 1


class FakeModel:
    """A dispatcher whose masks are the number of the version in every pixel."""

    def __init__(self) -> None:
        self.num_windows = 0
        self.failures: dict[int, Exception] = {}
        """What the call of this number raises, counted from 1."""
        self.gate: asyncio.Event | None = None
        """All calls but the first wait for it."""

    async def predict(self, route: Route, clip: Clip, threshold: float) -> Masks:
        """As `Dispatcher.predict`."""
        self.num_windows += 1
        if self.gate and self.num_windows > 1:
            await self.gate.wait()
        if failure := self.failures.get(self.num_windows):
            raise failure
        size = clip.size or clip.frames.shape[1:3]
        regions = regions_of(np.ones(size, np.uint8), np.full(size, 0.9))
        return Masks(version=route.release.version, size=size, frames=[regions] * clip.num_frames)


def gone() -> VersionGone:
    """What a dispatcher raises when the version cannot answer any more."""
    return VersionGone("version 1 is no longer loaded")


class Endpoint:
    """The whole HTTP side. With `fake`, clips are not decoded and masks are made up; else there is no model."""

    def __init__(self, folder, *, fake: bool = False, **changes: object) -> None:
        changes.setdefault("jobs", JobsConfig(uri=str(folder / "jobs")))
        changes.setdefault("require_keys", True)
        self.config = ServeConfig(keys_file=str(folder / "keys.json"), **changes)
        keys = KeyFile.of(self.config)
        self.segment_key, self.admin_key = keys.add("segment"), keys.add("admin")
        self.followed = SimpleNamespace(state=serving() if fake else RolloutState(), alive=True)
        router = Router(self.followed)
        self.decoder, self.model = FakeDecoder(), FakeModel()
        sandbox = self.decoder if fake else Sandbox(self.config)
        segmenter = Segmenter(config=self.config, router=router, dispatcher=self.model, sandbox=sandbox)
        self.metrics = Metrics(max_requests=self.config.max_requests)
        self.app: FastAPI = create_app(
            config=self.config,
            segmenter=segmenter,
            sandbox=sandbox,
            router=router,
            metrics=self.metrics,
            nudge=self.nudge,
        )

    async def nudge(self) -> None:
        pass

    def ask(self, method: str, path: str, *, key: str | None = None, **request) -> httpx.Response:
        headers = httpx.Headers(request.pop("headers", {}))
        if key:
            headers["Authorization"] = f"Bearer {key}"

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, headers=headers, **request)

        return asyncio.run(send())
