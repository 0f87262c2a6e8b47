"""One request from upload to response: decode -> model -> encode, window by window."""

import asyncio
import contextlib
import functools
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sdavs_platform.config.serve import ServeConfig

from sdavs_serve import tracing
from sdavs_serve.decoding.media import Window, windows
from sdavs_serve.decoding.sandboxed_decoders import Decoding, Sandbox, Upload
from sdavs_serve.encoding.responses import SegmentedFrame, Writer
from sdavs_serve.errors import NoModel, RequestError
from sdavs_serve.http.problems import problem_of
from sdavs_serve.http.results import Asked, ResultCache, Segmented, content_digest, result_key
from sdavs_serve.inference.dispatch import Dispatcher, VersionGone
from sdavs_serve.inference.router import Route, Router
from sdavs_serve.model_calls import Masks, Sound
from sdavs_serve.rollout import store
from sdavs_serve.schema import AnswerHead, Timeline, Timings

logger = logging.getLogger("ray.serve")

T = TypeVar("T")

NewWriter = Callable[[AnswerHead, list[str]], Writer]

MAX_ATTEMPTS = 4
"""How many versions a request may be routed to before it fails."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One line of a progressive response."""

    line: bytes
    version: int
    data_digest: str
    num_frames: int = 0
    """Frames in it."""


@dataclass(frozen=True, kw_only=True)
class _Predicted:
    decoding: Decoding
    window: Window
    masks: Masks


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
        max_bytes = round(config.reuse_mb * 1_000_000)
        self._results = ResultCache(max_bytes) if max_bytes else None
        self._threads = ThreadPoolExecutor(2 * config.max_requests, thread_name_prefix="segmenter")

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Sockets, numpy and Pillow would block the event loop, so they run in threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def segment(
        self,
        upload: Upload,
        new_writer: NewWriter,
        *,
        pinned: int | None = None,
        asked: Asked | None = None,
        timeout_s: float | None = None,
        on_frames: Callable[[int], None] = lambda num_frames: None,
    ) -> Segmented:
        """All masks of an upload, all from one version of the model.

        Args:
            upload: what the client sent.
            new_writer: makes the writer of the response; called again if the request starts over with another version.
            pinned: the version that the client insists on.
            asked: an earlier response to the same request may be reused; None: it may not.
            timeout_s: longest time; None: `ServeConfig.timeout_s`.
            on_frames: called after each window with the number of frames that are ready.

        Raises:
            RequestError: the upload cannot be read, is beyond a limit, or no model can answer.
        """
        digest = await self._in_thread(content_digest, upload) if asked and self._results else ""
        timeout_s = timeout_s or self._config.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                for attempt in range(MAX_ATTEMPTS):
                    # A candidate gets one attempt; further ones go to the served version.
                    route = self._router.choose(pinned=pinned, only_active=attempt > 0)
                    key = result_key(digest, asked, upload, route.release.identity) if asked else ""
                    try:
                        # While versions are compared, every clip counts.
                        kept = self._results if asked and not route.mirror else None
                        if kept and (found := await self._in_thread(kept.get, key)):
                            return found
                        made = await self._segment(upload, new_writer, route, on_frames)
                    except VersionGone as gone:
                        logger.info("request starts over: %s", gone)
                        await asyncio.sleep(store.WATCH_S)
                        continue
                    if self._results and asked:
                        await self._in_thread(self._results.put, key, made)
                    return made
        except TimeoutError:
            raise _too_slow(timeout_s) from None
        finally:
            # Also if the client has hung up, which Serve reports by cancelling this call.
            upload.stop_decoding()
        raise NoModel("the model is being replaced; try again", retry_after_s=1)

    async def stream(self, upload: Upload, *, pinned: int | None = None) -> AsyncGenerator[Piece, None]:
        """The masks of an upload window by window, as lines of JSON, all from one version of the model.

        The first line is an `AnswerHead`, then come `frames` of each window, last `timeline` and `timings_ms`. An error
        after the first window is the last line, `problem`. `timeout_s` applies to each window.

        Raises:
            RequestError: as `segment`, before the first window is ready.
        """
        try:
            for _ in range(MAX_ATTEMPTS):
                # No candidate: what has been sent cannot be replaced by another version's.
                route = self._router.choose(pinned=pinned, only_active=True)
                begun = False
                try:
                    async with contextlib.aclosing(self._stream(upload, route)) as pieces:
                        async for piece in pieces:
                            begun = True
                            yield piece
                    return
                except VersionGone as gone:
                    logger.info("request starts over: %s", gone)
                    error: RequestError = NoModel("the model was replaced; try again", retry_after_s=1)
                except RequestError as refused:
                    error = refused
                    if not begun:
                        raise
                if begun:
                    problem = problem_of(error).model_dump(mode="json", exclude_none=True)
                    yield _piece(route, {"problem": problem})
                    return
                await asyncio.sleep(store.WATCH_S)
            raise NoModel("the model is being replaced; try again", retry_after_s=1)
        finally:
            upload.stop_decoding()

    async def _stream(self, upload: Upload, route: Route) -> AsyncGenerator[Piece, None]:
        clock, release, decoding = _Clock(), route.release, None
        head = _head(upload, route).model_dump(mode="json")
        async with contextlib.aclosing(self._predicted(upload, route, clock, draws=False)) as windows_of_clip:
            while True:
                try:
                    async with asyncio.timeout(self._config.timeout_s):
                        found = await anext(windows_of_clip, None)
                except TimeoutError:
                    raise _too_slow(self._config.timeout_s) from None
                if found is None:
                    break
                if decoding is None:
                    yield _piece(route, head)
                decoding = found.decoding
                with clock.time("encode"):
                    frames = await self._in_thread(_schemas, found, release.classes)
                yield _piece(route, {"frames": frames}, num_frames=len(frames))
        timeline = _timeline(decoding) if decoding else None
        ends = timeline.model_dump() if timeline else None
        yield _piece(route, {"timeline": ends, "timings_ms": clock.timings().model_dump()})

    async def _segment(
        self, upload: Upload, new_writer: NewWriter, route: Route, on_frames: Callable[[int], None]
    ) -> Segmented:
        clock, release = _Clock(), route.release
        writer, num_frames, decoding = new_writer(_head(upload, route), release.classes), 0, None
        predicted = self._predicted(upload, route, clock, draws=writer.draws)
        async with contextlib.aclosing(predicted) as windows_of_clip:
            async for found in windows_of_clip:
                decoding = found.decoding
                with clock.time("encode"):
                    await self._in_thread(_write, writer, found)
                num_frames += len(found.window.samples)
                on_frames(num_frames)
        with clock.time("encode"):
            timeline = _timeline(decoding) if decoding else None
            body = await self._in_thread(writer.finish, clock.timings(), timeline)
        return Segmented(
            body=body,
            media_type=writer.media_type,
            version=release.version,
            data_digest=release.data_digest,
            num_frames=num_frames,
            timings=clock.timings(),
        )

    async def _predicted(
        self, upload: Upload, route: Route, clock: "_Clock", *, draws: bool
    ) -> AsyncGenerator[_Predicted, None]:
        """The windows of a clip with their masks, in order; with the pictures as displayed if they are drawn on."""
        start = functools.partial(
            self._sandbox.samples, upload, squash_to=_side_of_pictures(route), keep_pictures=draws
        )
        with closing(await self._in_thread(start)) as decoding:
            parts = windows(decoding.samples(), num_frames=route.release.num_frames)
            while True:
                with clock.time("decode"):
                    window = await self._in_thread(next, parts, None)
                if window is None:
                    return
                with clock.time("model"):
                    masks = await self._dispatcher.predict(route, window.clip, upload.threshold)
                yield _Predicted(decoding=decoding, window=window, masks=masks)


def _too_slow(timeout_s: float) -> RequestError:
    detail = f"no answer within {timeout_s:g} s; send a shorter clip"
    return RequestError(status=504, kind="timeout", detail=detail, limit="timeout_s")


def _head(upload: Upload, route: Route) -> AnswerHead:
    return AnswerHead(
        model=route.release.info(route.alias),
        fps=upload.fps,
        threshold=upload.threshold if len(route.release.classes) == 2 else None,
    )


def _piece(route: Route, content: dict[str, Any], *, num_frames: int = 0) -> Piece:
    return Piece(
        line=json.dumps(content).encode() + b"\n",
        version=route.release.version,
        data_digest=route.release.data_digest,
        num_frames=num_frames,
    )


def _side_of_pictures(route: Route) -> int | None:
    """To which side pictures are squashed for the version and the one that shadows it; None if those differ."""
    side = route.release.image_size
    return side if route.mirror is None or route.mirror.image_size == side else None


def _timeline(decoding: Decoding) -> Timeline | None:
    found = decoding.timeline
    if found is None:
        return None
    return Timeline(picture_end_s=round(found.picture_end_s, 3), sound_end_s=round(found.sound_end_s, 3))


def _write(writer: Writer, found: _Predicted) -> None:
    for frame in _frames(found):
        writer.add(frame)


def _schemas(found: _Predicted, classes: list[str]) -> list[dict[str, Any]]:
    return [frame.to_schema(classes).model_dump(mode="json") for frame in _frames(found)]


def _frames(found: _Predicted) -> Iterator[SegmentedFrame]:
    window, masks = found.window, found.masks
    fresh = len(window.samples)
    sounds: Sequence[list[Sound] | None] = masks.sounds or [None] * len(masks.frames)
    parts = (masks.frames[-fresh:], sounds[-fresh:])
    for offset, (sample, regions, heard) in enumerate(zip(window.samples, *parts, strict=True)):
        yield SegmentedFrame(
            index=window.first + offset,
            time_s=sample.time_s,
            picture=sample.picture if sample.size is None else sample.displayed,
            size=masks.size,
            regions=regions,
            sounds=heard,
        )


class _Clock:
    """Adds up how long each part of one request takes; each time is a span of its trace."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._spent = {"decode": 0.0, "model": 0.0, "encode": 0.0}

    @contextmanager
    def time(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        with tracing.span(what):
            yield
        self._spent[what] += time.perf_counter() - started

    def timings(self) -> Timings:
        """All in milliseconds."""
        total = time.perf_counter() - self._started
        spent = {what: round(seconds * 1000, 1) for what, seconds in self._spent.items()}
        return Timings(**spent, total=round(total * 1000, 1))
