"""One request from upload to answer: decode -> model -> encode, window by window."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sdavs_platform.config import ServeConfig

from sdavs_serve.asker import Asker, Gone
from sdavs_serve.encode import AnsweredFrame, Writer
from sdavs_serve.errors import NoModel, RequestError
from sdavs_serve.media import Sample, decode_pictures, decode_video, windows
from sdavs_serve.rollout import store
from sdavs_serve.router import Route, Router
from sdavs_serve.schema import FrameMask, SegmentAnswer, Timings

logger = logging.getLogger("ray.serve")

MAX_ATTEMPTS = 4
"""How often a request may begin again because the version that it was given to is gone."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What a client sent: a video, or pictures and a sound file. Names of files are not kept."""

    video: bytes | None
    pictures: list[bytes]
    audio: bytes | None
    fps: float
    threshold: float

    @property
    def sound(self) -> bytes:
        """The file that holds the sound."""
        sound = self.audio if self.video is None else self.video
        assert sound is not None
        return sound

    def samples(self, limits: ServeConfig) -> Iterator[Sample]:
        """The upload, moment by moment. Raises MediaError as soon as something is wrong."""
        if self.video is not None:
            return decode_video(self.video, fps=self.fps, limits=limits)
        return decode_pictures(self.pictures, self.sound, fps=self.fps, limits=limits)


class Segmenter:
    """Runs uploads through the version that the router chooses."""

    def __init__(self, *, config: ServeConfig, router: Router, asker: Asker) -> None:
        self._config = config
        self._router = router
        self._asker = asker

    async def segment(
        self, upload: Upload, new_writer: Callable[[], Writer], *, pinned: int | None = None
    ) -> tuple[bytes, Writer, SegmentAnswer]:
        """All masks of an upload, all from one version of the model.

        Args:
            upload: what the client sent.
            new_writer: makes the writer of the answer; called anew if another version has to begin again.
            pinned: the version that the client insists on.

        Returns:
            The body of the HTTP answer, the writer that made it, and the answer in full.

        Raises:
            RequestError: the upload cannot be read, is beyond a limit, or no model is there to answer.
        """
        try:
            async with asyncio.timeout(self._config.timeout_s):
                for attempt in range(MAX_ATTEMPTS):
                    # A candidate gets one chance; what follows is answered by the version that serves.
                    route = self._router.choose(pinned=pinned, only_active=attempt > 0)
                    try:
                        return await self._segment(upload, new_writer(), route)
                    except Gone as gone:
                        logger.info("request begins again: %s", gone)
                        await asyncio.sleep(store.WATCH_S)
        except TimeoutError:
            raise RequestError(
                status=504,
                kind="timeout",
                detail=f"no answer within {self._config.timeout_s:g} s; send a shorter clip",
                limit="timeout_s",
            ) from None
        raise NoModel("the model is being exchanged; try again", retry_after_s=1)

    async def _segment(
        self, upload: Upload, writer: Writer, route: Route
    ) -> tuple[bytes, Writer, SegmentAnswer]:
        clock = _Clock()
        parts = windows(upload.samples(self._config), num_frames=route.release.num_frames)
        frames: list[FrameMask] = []
        while True:
            # PyAV, numpy and Pillow hold up the event loop, so they work in threads.
            with clock.time("decode"):
                window = await asyncio.to_thread(next, parts, None)
            if window is None:
                break
            with clock.time("model"):
                answered = await self._asker.ask(route, window.clip, upload.threshold)
            fresh = len(window.samples)
            with clock.time("encode"):
                for offset, (sample, mask, score) in enumerate(
                    zip(window.samples, answered.masks[-fresh:], answered.scores[-fresh:], strict=True)
                ):
                    frame = AnsweredFrame(
                        index=window.first + offset,
                        time_s=sample.time_s,
                        picture=sample.picture,
                        mask=mask,
                        score=score.get(1, 0.0),
                    )
                    frames.append(await asyncio.to_thread(frame.to_schema))
                    await asyncio.to_thread(writer.add, frame)
        answer = SegmentAnswer(
            model=route.release.info(route.alias),
            fps=upload.fps,
            threshold=upload.threshold,
            frames=frames,
            timings_ms=clock.timings(),
        )
        return await asyncio.to_thread(writer.finish, answer), writer, answer


class _Clock:
    """Sums up where one request's time goes."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._spent = {"decode": 0.0, "model": 0.0, "encode": 0.0}

    @contextmanager
    def time(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._spent[what] += time.perf_counter() - started

    def timings(self) -> Timings:
        """All in milliseconds."""
        total = time.perf_counter() - self._started
        spent = {what: round(seconds * 1000, 1) for what, seconds in self._spent.items()}
        return Timings(**spent, total=round(total * 1000, 1))
