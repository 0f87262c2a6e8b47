"""Traces of requests for OpenTelemetry: decode -> model -> encode of each window, and the prediction in its replica.

Off unless the config or OpenTelemetry's own variables name a collector. Spans are sent as OTLP over HTTP in its JSON
form, which every collector takes, so that nothing has to be installed: the SDK comes with Ray.
"""

import functools
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
from sdavs_platform.config.serve import ServeConfig
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
    from opentelemetry.trace import Tracer

logger = logging.getLogger("ray.serve")

Carrier = dict[str, str]
"""The current span as W3C's header `traceparent`, for another process."""

VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""OpenTelemetry's variables for the collector; the first is the whole address, the second lacks `/v1/traces`."""

EXPORT_S = 10.0
"""Longest time for sending a batch of spans, as in OpenTelemetry's specification."""

PATHS = ("/v1/segment", "/v1/jobs")
"""Requests that begin a trace; probes and queries do not."""

_tracer: "Tracer | None" = None
"""Of this process; None: no traces."""


def collector(config: ServeConfig) -> str | None:
    """Address that spans are sent to; None: traces are off."""
    if config.traces_endpoint is not None:
        return config.traces_endpoint.rstrip("/") + "/v1/traces"
    whole, base = (os.environ.get(name) for name in VARIABLES)
    return whole or (base.rstrip("/") + "/v1/traces" if base else None)


def configure(config: ServeConfig, *, part: str) -> None:
    """Turn traces on in this process if a collector is configured.

    Args:
        config: the endpoint's config.
        part: which part of the endpoint this process is.
    """
    if (address := collector(config)) is None:
        return
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    use(BatchSpanProcessor(_exporter(address)), part=part)
    logger.info("traces are sent to %s", address)


def use(processor: "SpanProcessor | None", *, part: str = "endpoint") -> None:
    """Give spans of this process to a processor; None turns traces off."""
    global _tracer
    if processor is None:
        _tracer = None
        return
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    # Not the global provider: Ray may have one of its own.
    provider = TracerProvider(resource=Resource.create({"service.name": "sdavs", "sdavs.part": part}))
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("sdavs_serve")


@contextmanager
def span(name: str, *, parent: Carrier | None = None, **attributes: str | int | float) -> Iterator[Any]:
    """A span around the block, below the current one; its value is None while traces are off.

    The block must end in the task in which it began: an asynchronous generator may not yield in it.

    Args:
        name: of the span.
        parent: `carrier` of another process, instead of the current span.
        attributes: of the span; an underscore stands for a dot.
    """
    if _tracer is None:
        yield None
        return
    from opentelemetry.trace import SpanKind

    context = _propagator().extract(parent) if parent is not None else None
    named = {key.replace("_", "."): value for key, value in attributes.items()}
    kind = SpanKind.INTERNAL if parent is None else SpanKind.SERVER
    with _tracer.start_as_current_span(
        name, context=context, kind=kind, attributes=named, record_exception=False
    ) as current:
        yield current


def carrier() -> Carrier | None:
    """The current span for another process; None while traces are off."""
    if _tracer is None:
        return None
    found: Carrier = {}
    _propagator().inject(found)
    return found


@functools.cache
def _propagator() -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator()


class TraceRequests:
    """ASGI middleware: a span for each request that sends a clip, below the client's `traceparent` if it has one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if _tracer is None or scope["type"] != "http" or scope["path"] not in PATHS:
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        parent = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        name = f"{scope['method']} {scope['path']}"
        with span(
            name, parent=parent, http_request_method=scope["method"], http_route=scope["path"]
        ) as current:
            if request_id := headers.get("x-request-id"):
                current.set_attribute("sdavs.request_id", request_id)

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    current.set_attribute("http.response.status_code", message["status"])
                await send(message)

            await self._app(scope, receive, noted)


def _exporter(address: str) -> Any:
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class JsonExporter(SpanExporter):
        """Sends spans to a collector. What it does not take is dropped, and logged once."""

        def __init__(self) -> None:
            self._http = httpx.Client(timeout=EXPORT_S, trust_env=False)
            self._failed = False

        def export(self, spans: "Sequence[ReadableSpan]") -> SpanExportResult:
            try:
                self._http.post(address, json=as_otlp(spans)).raise_for_status()
            except httpx.HTTPError as error:
                if not self._failed:
                    logger.warning("could not send traces to %s: %s", address, error)
                self._failed = True
                return SpanExportResult.FAILURE
            self._failed = False
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            self._http.close()

    return JsonExporter()


def as_otlp(spans: "Sequence[ReadableSpan]") -> dict[str, Any]:
    """Spans of one process as the body of OTLP's `ExportTraceServiceRequest` in JSON."""
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(spans[0].resource.attributes)},
                "scopeSpans": [{"scope": {"name": "sdavs_serve"}, "spans": [_as_json(one) for one in spans]}],
            }
        ]
    }


def _as_json(one: "ReadableSpan") -> dict[str, Any]:
    found = {
        "traceId": f"{one.context.trace_id:032x}",
        "spanId": f"{one.context.span_id:016x}",
        "name": one.name,
        "kind": one.kind.value + 1,  # OTLP counts from 1, the SDK from 0
        "startTimeUnixNano": str(one.start_time),
        "endTimeUnixNano": str(one.end_time),
        "attributes": _attributes(one.attributes or {}),
        "status": {"code": one.status.status_code.value, "message": one.status.description or ""},
    }
    return found if one.parent is None else {**found, "parentSpanId": f"{one.parent.span_id:016x}"}


def _attributes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case str():
            return {"stringValue": value}
        case _:
            return {"stringValue": json.dumps(value, default=str)}
