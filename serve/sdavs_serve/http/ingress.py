"""The ingress deployment: routes, headers, probes. It decodes and encodes; the model runs in other deployments."""

import asyncio
import io
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import IO, Annotated, Any

from fastapi import APIRouter, FastAPI, Form, Header, Request, Security
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.security import HTTPBearer
from ray import serve
from ray.serve.handle import DeploymentHandle
from sdavs_platform.config.paths import state_folder
from sdavs_platform.config.serve import ServeConfig
from sdavs_platform.storage.filesystem import Storage

import sdavs_serve
from sdavs_serve import tracing
from sdavs_serve.decoding.sandboxed_decoders import Sandbox
from sdavs_serve.errors import NoModel, RequestError
from sdavs_serve.http.admission import Admission, UploadLimits
from sdavs_serve.http.auth import KEY_OF_REQUEST, Authentication
from sdavs_serve.http.conformance import Conformance, route_with_files
from sdavs_serve.http.form import JOB_TYPES, MEDIA_TYPES, NDJSON, SegmentForm, negotiate
from sdavs_serve.http.job_routes import add_jobs
from sdavs_serve.http.job_runner import JobRunner
from sdavs_serve.http.job_table import JobTable
from sdavs_serve.http.job_webhook import JobWebhooks
from sdavs_serve.http.keys import KeyFile, keys_required
from sdavs_serve.http.metrics import Metrics, RequestMetrics
from sdavs_serve.http.origins import add_origins
from sdavs_serve.http.problems import MEDIA_TYPE as PROBLEM
from sdavs_serve.http.problems import handle_problems
from sdavs_serve.http.results import Asked, Segmented
from sdavs_serve.http.segmenter import Piece, Segmenter
from sdavs_serve.http.webhook import Webhooks, is_plausible
from sdavs_serve.inference.dispatch import Dispatcher
from sdavs_serve.inference.router import Route, Router, why_none_serves
from sdavs_serve.inference.shadow import Observer
from sdavs_serve.page.routes import add_docs, add_page
from sdavs_serve.rollout import store
from sdavs_serve.rollout.state import RolloutState, SlotName
from sdavs_serve.schema import Health, ModelStatus, Problem, SegmentAnswer

logger = logging.getLogger("ray.serve")

WAITING_LOG_S = 10.0
"""Between log lines of an ingress that waits for a version."""

PIECE = 1 << 20
"""Bytes of a response that are in memory at once."""

KEY = HTTPBearer(auto_error=False, description="A key of `jobs/keys.py`.")
"""Describes the keys in OpenAPI and in /docs; `auth.Authentication` checks them."""

ERRORS = {
    400: "a malformed header or form",
    401: "no key, an unknown one, or one that has expired",
    403: "a key for something else, or a page of another origin",
    404: "there is no such job, or it was sent with another key",
    406: "none of the accepted media types is offered",
    408: "the upload is too slow; `limit` names the limit",
    409: "the version asked for by X-Model-Version is not loaded; a job's result: it is not done",
    413: "too many bytes, seconds, frames or pixels; `limit` names the limit",
    415: "not a file of a kind that can be read",
    421: "a Host header that is not this endpoint's",
    422: "damaged, without sound, or a field out of range; `field` names the field",
    429: "too many requests of this key or of all; `limit` names the limit; see Retry-After",
    503: "no model serves at the moment; see Retry-After",
    500: "an internal error; it has been logged",
    504: "it took longer than the endpoint allows",
}

BINARY = {"schema": {"type": "string", "format": "binary"}}

ANY = (400, 403, 421, 500)
"""What every path may return."""

KEYED = (*ANY, 401)
"""Further responses of every path that needs a key."""


@serve.ingress()
class Ingress:
    """The deployment that Serve's proxy calls; the app is built in the replica, where the config is known."""

    def __init__(
        self, config: ServeConfig, slots: dict[SlotName, DeploymentHandle], controller: DeploymentHandle
    ) -> None:
        """Wait until a version serves, see `may_start`.

        Args:
            config: the endpoint's config.
            slots: handles of the two `Predictor` deployments.
            controller: handle of the `RolloutController`.
        """
        tracing.configure(config, part="ingress")
        self._config = config
        self._controller = controller
        watcher = store.Watcher()
        watcher.start()
        _wait_until_ready(watcher)
        self._router = Router(watcher)
        timeout_s = config.rollout.call_timeout_s
        observer = Observer(slots=slots, controller=controller, call_timeout_s=timeout_s)
        dispatcher = Dispatcher(
            slots=slots, router=self._router, observer=observer, candidate_timeout_s=timeout_s
        )
        self._sandbox = Sandbox(config)
        self._segmenter = Segmenter(
            config=config, router=self._router, dispatcher=dispatcher, sandbox=self._sandbox
        )

    def check_health(self) -> None:
        """Called by Serve, which replaces this replica if it raises."""
        if not self._router.alive:
            raise RuntimeError("the thread that follows the rollout has stopped")

    def __serve_build_asgi_app__(self) -> FastAPI:
        metrics = Metrics(max_requests=self._config.max_requests)
        metrics.publish(serve.get_replica_context().replica_id.unique_id)
        return create_app(
            config=self._config,
            segmenter=self._segmenter,
            sandbox=self._sandbox,
            router=self._router,
            metrics=metrics,
            nudge=self._controller.nudge.remote,
        )


def may_start(state: RolloutState) -> bool:
    """Whether an ingress may come up. Only then Serve reports the application as running.

    KubeRay gives a new cluster the traffic of the old one at that moment, so a version must serve by then. The first
    endpoint of a model replaces nothing: it also comes up when its version was refused, to report why.
    """
    return state.active is not None or (state.nothing_served and state.refused is not None)


def _wait_until_ready(watcher: store.Watcher) -> None:
    log_at = time.monotonic()
    while not may_start(watcher.state):
        if time.monotonic() >= log_at:
            logger.info("waiting for a version that serves: %s", why_none_serves(watcher.state))
            log_at = time.monotonic() + WAITING_LOG_S
        time.sleep(store.WATCH_S)


def create_app(
    *,
    config: ServeConfig,
    segmenter: Segmenter,
    sandbox: Sandbox,
    router: Router,
    metrics: Metrics,
    nudge: Callable[[], Awaitable[None]],
) -> FastAPI:
    """The FastAPI app around a segmenter and a rollout.

    Args:
        config: the endpoint's config.
        segmenter: segments uploads.
        sandbox: decodes them.
        router: follows the rollout's document.
        metrics: counts requests.
        nudge: makes the controller look the alias up now.
    """
    folder = config.jobs.uri or str(state_folder() / "jobs")
    table = JobTable(Storage(folder, field="serve.jobs.uri"))
    runner = JobRunner(
        config=config,
        table=table,
        segmenter=segmenter,
        sandbox=sandbox,
        notify=JobWebhooks(config.jobs),
        on_ended=lambda job: metrics.jobs.labels(job.state).inc(),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        working = asyncio.create_task(runner.run()) if offers_jobs(config) else None
        yield
        if working:
            working.cancel()

    app = FastAPI(
        lifespan=lifespan,
        title="SDAVS",
        summary="Masks of what is making the sound in a video",
        description=sdavs_serve.__doc__ or "",
        version="1",
        docs_url=None,
        redoc_url=None,
    )
    app.state.job_runner = runner
    webhooks = Webhooks(Path(config.webhook_secret_file)) if config.webhook_secret_file else None
    limits = UploadLimits(**{field.name: getattr(config, field.name) for field in fields(UploadLimits)})
    # From the inside out: the one added last sees a request first.
    app.add_middleware(Admission, limits=limits)
    if keys_required(config):
        app.add_middleware(Authentication, keys=KeyFile.of(config), accepts_webhooks=webhooks is not None)
    add_origins(app, config)
    app.add_middleware(Conformance)
    app.add_middleware(RequestMetrics, metrics=metrics)
    app.add_middleware(tracing.TraceRequests)
    handle_problems(app)
    add_page(app, config)
    add_docs(app)
    keyed = [Security(KEY)] if keys_required(config) else []
    uploads = APIRouter(route_class=route_with_files(config.max_frames))
    _add_segment(uploads, config=config, segmenter=segmenter, sandbox=sandbox, metrics=metrics, keyed=keyed)
    if offers_jobs(config):
        add_jobs(
            uploads,
            config=config,
            table=table,
            runner=runner,
            responses={
                "post": _problems(*(status for status in ERRORS if status not in (404, 409, 504))),
                "get": _problems(*KEYED, 404),
                "result": {
                    200: {"content": dict.fromkeys(JOB_TYPES, BINARY)},
                    **_problems(*KEYED, 404, 406, 409),
                },
                "delete": _problems(*KEYED, 404),
            },
            dependencies=keyed,
        )
    app.include_router(uploads)
    _add_rollout(app, config=config, router=router, webhooks=webhooks, nudge=nudge, keyed=keyed)
    _add_probes(app, router=router, metrics=metrics, keyed=keyed)
    return app


def _add_segment(
    uploads: APIRouter,
    *,
    config: ServeConfig,
    segmenter: Segmenter,
    sandbox: Sandbox,
    metrics: Metrics,
    keyed: list[Any],
) -> None:
    @uploads.post(
        "/v1/segment", response_class=JSONResponse, responses=_segment_responses(), dependencies=keyed
    )
    async def segment(
        request: Request,
        form: Annotated[SegmentForm, Form(media_type="multipart/form-data")],
        accept: Annotated[str, Header(description=", ".join(MEDIA_TYPES))] = MEDIA_TYPES[0],
        x_model_version: Annotated[int | None, Header(description="Insist on a loaded version")] = None,
    ) -> Response:
        """Segment what is making the sound, frame by frame.

        Sample i covers the time from i / fps to (i + 1) / fps: the picture in the middle of it, and the
        second of sound around that moment.
        """
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise RequestError(status=415, kind="unsupported", detail="send the clip as multipart/form-data")
        media_type = negotiate(accept)
        upload = await form.read(default_fps=config.fps)
        if media_type == NDJSON:
            return await _streamed(segmenter.stream(upload, pinned=x_model_version), metrics)
        new_writer = form.new_writer(media_type, upload, sandbox)
        asked = Asked(
            media_type=media_type, options=form.options, owner=request.scope.get(KEY_OF_REQUEST, "")
        )
        fresh = "no-cache" in request.headers.get("cache-control", "").lower()
        done = await segmenter.segment(
            upload, new_writer, pinned=x_model_version, asked=None if fresh else asked
        )
        if not done.reused:
            _count(done, metrics)
        headers = {
            "X-Model-Version": str(done.version),
            "X-Data-Digest": done.data_digest,
            "X-Result-Reused": str(done.reused).lower(),
            "Content-Length": str(done.body.seek(0, io.SEEK_END)),
        }
        pieces = _pieces(done.body)
        if int(headers["Content-Length"]) > PIECE:
            return StreamingResponse(pieces, media_type=done.media_type, headers=headers)
        # At once: a stream takes two tasks, a thread for each piece, and three messages to Serve's proxy.
        return Response(b"".join(pieces), media_type=done.media_type, headers=headers)


def _add_rollout(
    app: FastAPI,
    *,
    config: ServeConfig,
    router: Router,
    webhooks: Webhooks | None,
    nudge: Callable[[], Awaitable[None]],
    keyed: list[Any],
) -> None:
    @app.get("/v1/model", responses=_problems(*KEYED, 503), dependencies=keyed)
    async def model(response: Response) -> ModelStatus:
        """Which model serves, and why a newer one does not."""
        route = router.served()
        response.headers["X-Model-Version"] = str(route.release.version)
        return model_status(router.state, route, device="cuda" if config.num_gpus else "cpu")

    @app.get("/v1/rollout", responses=_problems(*KEYED), dependencies=keyed)
    async def rollout() -> RolloutState:
        """Progress of the change to another version: phase, weights, gates, measurements, history."""
        return router.state

    @app.post(
        "/v1/rollout/nudge",
        status_code=202,
        responses=_problems(*KEYED, 408, 413, 429),
        dependencies=keyed,
    )
    async def nudge_rollout(request: Request) -> Health:
        """Look the alias up now, instead of at the next poll. MLflow's webhook may call this."""
        if webhooks and is_plausible(request.headers):
            await webhooks.check(request)
        await nudge()
        return Health(status="ok")


def _add_probes(app: FastAPI, *, router: Router, metrics: Metrics, keyed: list[Any]) -> None:
    @app.get("/metrics", response_class=PlainTextResponse, responses=_problems(*KEYED), dependencies=keyed)
    async def prometheus() -> Response:
        """Requests, times, frames and the rollout, for Prometheus."""
        text = await asyncio.to_thread(metrics.text, router.state)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/healthz", responses=_problems(*ANY))
    async def healthz() -> Health:
        """The process is alive."""
        return Health(status="ok")

    @app.get("/readyz", responses={503: {"model": Health}, **_problems(*ANY)})
    async def readyz(response: Response) -> Health:
        """A model is loaded and serves: the last report of its replicas is not older than ten seconds."""
        try:
            router.served()
        except NoModel as error:
            response.status_code = 503
            return Health(status="not ready", detail=error.detail)
        if not router.state.live:
            response.status_code = 503
            return Health(status="not ready", detail="no replica of the served version is alive")
        return Health(status="ok")


def offers_jobs(config: ServeConfig) -> bool:
    """Whether every ingress replica would see the same jobs: several have no folder in common."""
    return config.jobs.uri is not None or config.ingress_replicas == 1


def _count(done: Segmented, metrics: Metrics) -> None:
    metrics.frames.labels(str(done.version)).inc(done.num_frames)
    for part in ("decode", "model", "encode"):
        metrics.part_seconds.labels(part).inc(getattr(done.timings, part) / 1000)


async def _streamed(pieces: AsyncGenerator[Piece, None], metrics: Metrics) -> Response:
    """A response whose status is that of its first window."""
    first = await anext(pieces)

    async def lines() -> AsyncIterator[bytes]:
        yield first.line
        async with aclosing(pieces):
            async for piece in pieces:
                metrics.frames.labels(str(piece.version)).inc(piece.num_frames)
                yield piece.line

    headers = {"X-Model-Version": str(first.version), "X-Data-Digest": first.data_digest}
    return StreamingResponse(lines(), media_type=NDJSON, headers=headers)


def _pieces(body: IO[bytes]) -> Iterator[bytes]:
    with body:
        body.seek(0)
        while piece := body.read(PIECE):
            yield piece


def model_status(state: RolloutState, route: Route, *, device: str) -> ModelStatus:
    """The response of GET /v1/model."""
    release, refused = route.release, state.refused
    reason = f"version {refused.version} at {refused.gate}: {refused.reason}" if refused else state.trouble
    facts = release.model_dump(include=set(ModelStatus.model_fields))
    return ModelStatus(model=release.info(route.alias), device=device, refused=reason, **facts)


def _segment_responses() -> dict[int | str, dict[str, Any]]:
    content: dict[str, Any] = dict.fromkeys(MEDIA_TYPES[1:], BINARY)
    ok = {
        "description": "The masks, in the media type that the Accept header asks for.",
        "model": SegmentAnswer,
        "content": content,
        "headers": {
            "X-Model-Version": {"schema": {"type": "string"}, "description": "Registered version"},
            "X-Result-Reused": {
                "schema": {"type": "string"},
                "description": "true if it was computed for an earlier request with the same clip",
            },
            "X-Data-Digest": {
                "schema": {"type": "string"},
                "description": "Digest of the data it was trained on",
            },
        },
    }
    return {200: ok, **_problems(*(status for status in ERRORS if status != 404))}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {PROBLEM: {"schema": Problem.model_json_schema()}}
    return {status: {"description": ERRORS[status], "content": content} for status in sorted(statuses)}
