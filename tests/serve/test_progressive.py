"""Responses that come window by window, and responses that are used again."""

import asyncio
import io
import json

import httpx
import pytest
from in_process import Endpoint, gone, segment_scope, serving
from sdavs_serve.errors import NoModel
from sdavs_serve.http.results import ResultCache, Segmented
from sdavs_serve.schema import Timings

NDJSON = "application/x-ndjson"


@pytest.fixture
def endpoint(tmp_path) -> Endpoint:
    return Endpoint(tmp_path, fake=True)


def post(endpoint: Endpoint, accept: str = "application/json", *, content: bytes = b"clip", **more):
    headers = {"Accept": accept} | more.pop("headers", {})
    key = more.pop("key", endpoint.segment_key)
    return endpoint.ask("POST", "/v1/segment", key=key, files={"video": content}, headers=headers, **more)


def test_masks_come_as_lines_of_json_one_a_window(endpoint):
    answer = post(endpoint, NDJSON)
    assert (answer.status_code, answer.headers["content-type"]) == (200, NDJSON)
    assert answer.headers["X-Model-Version"] == "1"
    head, *windows, last = [json.loads(line) for line in answer.text.splitlines()]
    assert (head["model"]["version"], head["fps"]) == ("1", 1.0)
    assert [len(window["frames"]) for window in windows] == [2, 2, 1]
    frames = [frame for window in windows for frame in window["frames"]]
    whole = post(endpoint).json()
    assert frames == whole["frames"], "the same as in one document"
    assert last["timeline"] == whole["timeline"]
    assert set(last["timings_ms"]) == {"decode", "model", "encode", "total"}
    assert endpoint.decoder.num_closed == endpoint.decoder.num_decodings == 2
    counted = [
        s.value for f in endpoint.metrics.frames.collect() for s in f.samples if s.name.endswith("_total")
    ]
    assert counted == [10]


def test_the_first_window_is_sent_while_the_second_is_computed(endpoint):
    async def scenario() -> None:
        endpoint.model.gate = asyncio.Event()
        sent: list[bytes] = []
        request = httpx.Request("POST", "http://x/v1/segment", files={"video": b"clip"})
        kind = request.headers["content-type"]
        scope = segment_scope(endpoint.segment_key, content_type=kind, accept=NDJSON)
        bodies = [{"type": "http.request", "body": request.read()}]

        async def receive() -> dict:
            return bodies.pop() if bodies else await asyncio.Event().wait()

        async def send(message: dict) -> None:
            sent.append(message.get("body", b""))
            if b'"frames"' in sent[-1]:
                arrived.set()

        arrived = asyncio.Event()
        answering = asyncio.create_task(endpoint.app(scope, receive, send))
        await asyncio.wait_for(arrived.wait(), 20)
        assert b"".join(sent).count(b'"frames"') == 1
        endpoint.model.gate.set()
        await answering
        assert b"".join(sent).count(b'"frames"') == 3

    asyncio.run(scenario())


def test_an_error_before_the_first_window_is_a_status_and_later_the_last_line(endpoint):
    endpoint.model.failures = {1: NoModel("the queue is full", limit="max_queued")}
    answer = post(endpoint, NDJSON)
    assert (answer.status_code, answer.json()["limit"]) == (503, "max_queued")
    endpoint.model.num_windows, endpoint.model.failures = 0, {2: NoModel("the queue is full")}
    answer = post(endpoint, NDJSON)
    *_, last = [json.loads(line) for line in answer.text.splitlines()]
    assert (answer.status_code, last["problem"]["status"], last["problem"]["detail"]) == (
        200,
        503,
        "the queue is full",
    )
    endpoint.model.num_windows, endpoint.model.failures = 0, {1: gone()}
    assert len(post(endpoint, NDJSON).text.splitlines()) == 5, "it starts over while nothing has been sent"
    endpoint.model.num_windows, endpoint.model.failures = 0, {2: gone()}
    *_, last = [json.loads(line) for line in post(endpoint, NDJSON).text.splitlines()]
    assert last["problem"]["status"] == 503, "never masks of two versions"
    assert endpoint.decoder.num_closed == endpoint.decoder.num_decodings


def test_a_response_is_used_again_for_the_same_clip_parameters_version_and_key(endpoint):
    first = post(endpoint)
    assert (first.headers["X-Result-Reused"], endpoint.model.num_windows) == ("false", 3)
    again = post(endpoint)
    assert (again.headers["X-Result-Reused"], again.content) == ("true", first.content)
    assert endpoint.model.num_windows == 3
    others = [
        post(endpoint, content=b"other"),
        post(endpoint, data={"fps": "2"}),
        post(endpoint, data={"threshold": "0.4"}),
        post(endpoint, "image/png"),
        post(endpoint, "image/png", data={"frame": "1"}),
        post(endpoint, key=endpoint.admin_key),
        post(endpoint, headers={"Cache-Control": "no-cache"}),
    ]
    assert {answer.headers["X-Result-Reused"] for answer in others} == {"false"}
    endpoint.followed.state = serving(2)
    assert post(endpoint).headers["X-Model-Version"] == "2"
    endpoint.followed.state = serving(1)
    assert post(endpoint).headers["X-Result-Reused"] == "true"


def test_while_versions_are_compared_nothing_is_used_again(endpoint):
    post(endpoint)
    shadow = serving(1)
    candidate = serving(2).slots["a"]
    slots = {"a": shadow.slots["a"], "b": candidate}
    changes = {"slots": slots, "candidate": candidate, "phase": "shadow", "ready": True, "mirror": 0.25}
    endpoint.followed.state = shadow.model_copy(update=changes)
    assert post(endpoint).headers["X-Result-Reused"] == "false"


def response(content: bytes) -> Segmented:
    """A complete response."""
    timings = Timings(decode=0, model=0, encode=0, total=0)
    facts = {"version": 1, "data_digest": "d", "num_frames": 1, "timings": timings}
    return Segmented(body=io.BytesIO(content), media_type="application/json", **facts)


def test_kept_responses_have_a_bound():
    cache = ResultCache(max_bytes=1000)
    for name in "abcd":
        cache.put(name, response(name.encode() * 250))
    assert cache.get("a").body.read() == b"a" * 250
    cache.put("e", response(b"e" * 250))
    assert cache.get("b") is None, "it was used longest ago"
    assert [cache.get(name).body.read()[:1] for name in "acde"] == [b"a", b"c", b"d", b"e"]
    cache.put("large", response(bytes(251)))
    assert cache.get("large") is None
    cache.put("a", response(b"A"))
    assert cache.get("a").body.read() == b"A"


def test_without_space_nothing_is_kept(tmp_path):
    endpoint = Endpoint(tmp_path, fake=True, reuse_mb=0)
    for _ in range(2):
        assert post(endpoint).headers["X-Result-Reused"] == "false"
