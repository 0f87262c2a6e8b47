"""One request from upload to response: decode -> model -> encode, window by window."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import IO, Any, TypeVar

from sdavs_platform.config.serve import ServeConfig

from sdavs_serve.decoding.media import Window, windows
from sdavs_serve.decoding.sandboxed_decoders import Decoding, Sandbox, Upload
from sdavs_serve.encoding.responses import SegmentedFrame, Writer
from sdavs_serve.errors import NoModel, RequestError
from sdavs_serve.inference.dispatch import Dispatcher, VersionGone
from sdavs_serve.inference.router import Route, Router
from sdavs_serve.model_calls import Masks
from sdavs_serve.rollout import store
from sdavs_serve.schema import AnswerHead, Timeline, Timings

logger = logging.getLogger("ray.serve")

T = TypeVar("T")

NewWriter = Callable[[AnswerHead, list[str]], Writer]

MAX_ATTEMPTS = 4
"""How many versions a request may be routed to before it fails."""


@dataclass(frozen=True, kw_only=True)
class Segmented:
    """A complete response, on disk."""

    body: IO[bytes]
    media_type: str
    version: int
    data_digest: str
    """Of the data that this version was trained on."""
    num_frames: int
    timings: Timings


class Segmenter:
    """Runs uploads through the version that the router chooses."""

    def __init__(
        self, *, config: ServeConfig, router: Router, dispatcher: Dispatcher, sandbox: Sandbox
    ) -> None:
        self._config = config
        self._router = router
        self._dispatcher = dispatcher
        self._sandbox = sandbox
        # Serve gives a replica as many threads as it has CPUs, plus four: slow uploads would hold up quick ones.
        self._threads = ThreadPoolExecutor(2 * config.max_requests, thread_name_prefix="segmenter")

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Sockets, numpy and Pillow would block the event loop, so they run in threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def segment(self, upload: Upload, new_writer: NewWriter, *, pinned: int | None = None) -> Segmented:
        """All masks of an upload, all from one version of the model.

        Args:
            upload: what the client sent.
            new_writer: makes the writer of the response; called again if the request starts over with another version.
            pinned: the version that the client insists on.

        Raises:
            RequestError: the upload cannot be read, is beyond a limit, or no model can answer.
        """
        try:
            async with asyncio.timeout(self._config.timeout_s):
                for attempt in range(MAX_ATTEMPTS):
                    # A candidate gets one attempt; further ones go to the served version.
                    route = self._router.choose(pinned=pinned, only_active=attempt > 0)
                    try:
                        return await self._segment(upload, new_writer, route)
                    except VersionGone as gone:
                        logger.info("request starts over: %s", gone)
                        await asyncio.sleep(store.WATCH_S)
        except TimeoutError:
            raise RequestError(
                status=504,
                kind="timeout",
                detail=f"no answer within {self._config.timeout_s:g} s; send a shorter clip",
                limit="timeout_s",
            ) from None
        finally:
            # Also if the client has hung up, which Serve reports by cancelling this call.
            upload.stop_decoding()
        raise NoModel("the model is being replaced; try again", retry_after_s=1)

    async def _segment(self, upload: Upload, new_writer: NewWriter, route: Route) -> Segmented:
        clock, release = _Clock(), route.release
        head = AnswerHead(
            model=release.info(route.alias),
            fps=upload.fps,
            threshold=upload.threshold if len(release.classes) == 2 else None,
        )
        writer, num_frames = new_writer(head, release.classes), 0
        with closing(await self._in_thread(self._sandbox.samples, upload)) as decoding:
            parts = windows(decoding.samples(), num_frames=release.num_frames)
            while True:
                with clock.time("decode"):
                    window = await self._in_thread(next, parts, None)
                if window is None:
                    break
                with clock.time("model"):
                    predicted = await self._dispatcher.predict(route, window.clip, upload.threshold)
                with clock.time("encode"):
                    await self._in_thread(_write, writer, window, predicted)
                num_frames += len(window.samples)
        with clock.time("encode"):
            body = await self._in_thread(writer.finish, clock.timings(), _timeline(decoding))
        return Segmented(
            body=body,
            media_type=writer.media_type,
            version=release.version,
            data_digest=release.data_digest,
            num_frames=num_frames,
            timings=clock.timings(),
        )


def _timeline(decoding: Decoding) -> Timeline | None:
    found = decoding.timeline
    if found is None:
        return None
    return Timeline(picture_end_s=round(found.picture_end_s, 3), sound_end_s=round(found.sound_end_s, 3))


def _write(writer: Writer, window: Window, predicted: Masks) -> None:
    fresh = len(window.samples)
    answers = zip(window.samples, predicted.masks[-fresh:], predicted.scores[-fresh:], strict=True)
    for offset, (sample, mask, scores) in enumerate(answers):
        writer.add(
            SegmentedFrame(
                index=window.first + offset,
                time_s=sample.time_s,
                picture=sample.picture,
                mask=mask,
                scores=scores,
            )
        )


class _Clock:
    """Adds up how long each part of one request takes."""

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
