"""Traces for OpenTelemetry: what a request's spans are, and how they reach a collector."""

import asyncio
import contextvars
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
from in_process import Endpoint
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sdavs_platform.config.serve import ServeConfig
from sdavs_serve import tracing
from sdavs_serve.inference.dispatch import Dispatcher
from sdavs_serve.inference.predictor import Predictor
from sdavs_serve.model_calls import Masks, regions_of

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""A client's `traceparent`."""


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.use(SimpleSpanProcessor(exporter))
    yield exporter
    tracing.use(None)


def replica() -> Predictor:
    """A model replica whose masks are made up."""
    made = object.__new__(Predictor)
    made._model = SimpleNamespace(release=SimpleNamespace(version=1), prepare=lambda clip: clip)
    made._device = SimpleNamespace(broken=None)

    async def masks(model, inputs, *, size, threshold) -> Masks:
        regions = regions_of(np.ones(size, np.uint8), np.full(size, 0.9))
        return Masks(version=1, size=size, frames=[regions] * inputs.num_frames)

    made._masks = masks
    return made


def endpoint_with_replica(folder) -> Endpoint:
    """An endpoint that calls a replica as through Ray: arguments are copied, and no context is."""
    endpoint, predictor = Endpoint(folder, fake=True), replica()

    def remote(version, clip, threshold, trace) -> asyncio.Task:
        copied = json.loads(json.dumps(trace))
        call = predictor.segment(version, clip, threshold, copied)
        return asyncio.get_running_loop().create_task(call, context=contextvars.Context())

    observer = SimpleNamespace(record=lambda *_, **__: None, maybe_compare=lambda *_: None)
    slots = {"a": SimpleNamespace(segment=SimpleNamespace(remote=remote))}
    dispatcher = Dispatcher(slots=slots, router=None, observer=observer, candidate_timeout_s=1)
    endpoint.app.state.job_runner._segmenter._dispatcher = dispatcher
    return endpoint


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_a_request_is_one_trace_with_decode_model_and_encode_and_the_replicas_part(tmp_path, spans, accept):
    endpoint = endpoint_with_replica(tmp_path)
    headers = {"traceparent": PARENT, "Accept": accept}
    answer = endpoint.ask(
        "POST", "/v1/segment", key=endpoint.segment_key, files={"video": b"clip"}, headers=headers
    )
    assert answer.status_code == 200
    found = spans.get_finished_spans()
    assert {f"{span.context.trace_id:032x}" for span in found} == {PARENT.split("-")[1]}
    (root,) = [span for span in found if span.name == "POST /v1/segment"]
    assert f"{root.parent.span_id:016x}" == PARENT.split("-")[2]
    assert root.attributes["http.response.status_code"] == 200
    children = [span for span in found if span.parent.span_id == root.context.span_id]
    assert {span.name for span in children} == {"decode", "model", "encode"}
    models = {span.context.span_id for span in children if span.name == "model"}
    predicted = [span for span in found if span.name == "predict"]
    assert len(models) == len(predicted) == 3, "a clip of five frames, two at once"
    assert {span.parent.span_id for span in predicted} == models
    assert len(found) == 1 + len(children) + len(predicted)


def test_probes_and_queries_are_no_traces_and_nothing_is_when_traces_are_off(tmp_path, spans):
    endpoint = endpoint_with_replica(tmp_path)
    endpoint.ask("GET", "/healthz")
    endpoint.ask("GET", "/v1/model", key=endpoint.segment_key)
    assert spans.get_finished_spans() == ()
    tracing.use(None)
    clip = {"files": {"video": b"clip"}, "headers": {"traceparent": PARENT}}
    assert endpoint.ask("POST", "/v1/segment", key=endpoint.segment_key, **clip).status_code == 200
    with tracing.span("anything") as current:
        assert (current, tracing.carrier()) == (None, None)
    assert spans.get_finished_spans() == ()


def test_spans_reach_a_collector_as_otlp_in_json():
    received: list[tuple[str, dict]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, json.loads(content)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        exporter = tracing._exporter(tracing.collector(ServeConfig(traces_endpoint=address)))
        tracing.use(SimpleSpanProcessor(exporter), part="ingress")
        with pytest.raises(ValueError, match="damaged"), tracing.span("decode", sdavs_frames=3):
            raise ValueError("damaged")
    finally:
        tracing.use(None)
        server.shutdown()
        server.server_close()
    ((path, body),) = received
    assert path == "/v1/traces"
    (resource,) = body["resourceSpans"]
    facts = {entry["key"]: entry["value"] for entry in resource["resource"]["attributes"]}
    assert facts["service.name"] == {"stringValue": "sdavs"}
    assert facts["sdavs.part"] == {"stringValue": "ingress"}
    (span,) = resource["scopeSpans"][0]["spans"]
    assert (span["name"], span["kind"], len(span["traceId"]), len(span["spanId"])) == ("decode", 1, 32, 16)
    assert int(span["endTimeUnixNano"]) >= int(span["startTimeUnixNano"]) > 1e18
    assert span["attributes"] == [{"key": "sdavs.frames", "value": {"intValue": "3"}}]
    assert span["status"] == {"code": 2, "message": "ValueError: damaged"}


def test_the_collector_comes_from_the_config_or_from_opentelemetrys_variables(monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert tracing.collector(ServeConfig()) is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://node:4318/")
    assert tracing.collector(ServeConfig()) == "http://node:4318/v1/traces"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces/all")
    assert tracing.collector(ServeConfig()) == "http://traces/all"
    given = ServeConfig(traces_endpoint="https://collector:4318")
    assert tracing.collector(given) == "https://collector:4318/v1/traces"
    with pytest.raises(ValueError, match="traces_endpoint"):
        ServeConfig(traces_endpoint="collector:4317")
