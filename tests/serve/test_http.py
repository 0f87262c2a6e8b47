"""HTTP as its RFCs have it: negotiation, methods, malformed headers, and a description that lists every status."""

import asyncio
import contextlib
import io
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from in_process import Endpoint, segment_scope
from PIL import Image
from sdavs_serve.decoding.sandboxed_decoders import Upload
from sdavs_serve.errors import RequestError
from sdavs_serve.http.form import negotiate
from sdavs_serve.http.ingress import may_start
from sdavs_serve.http.keys import KeyFile
from sdavs_serve.rollout.state import Refusal, Release, RolloutState
from waiting import patience


@pytest.fixture
def endpoint(tmp_path) -> Endpoint:
    return Endpoint(tmp_path)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", None),
        ("*/*", "application/json"),
        ("text/html, */*;q=0.1", "application/json"),
        ("image/*;q=0.5, video/mp4", "video/mp4"),
        ("image/png;q=0.5, video/mp4;q=0.9, application/zip;q=0.7", "video/mp4"),
        ("Image/PNG; Q=0.5", "image/png"),
        ("application/json ; q=0, image/png", "image/png"),
        ("application/json;q=0, */*", "image/png"),
        ("application/*;q=0.9, application/json;q=0.1", "application/zip"),
        ("image/png;q=1.000, video/mp4;q=0.999", "image/png"),
        ("image/png, application/json", "image/png"),
        ("image/png;q=banana, video/mp4;q=0.1", "video/mp4"),
        ("text/html, application/xml", None),
        ("*/*;q=0", None),
    ],
)
def test_the_accept_header_is_read_with_its_quality_values(accept, chosen):
    if chosen is None:
        with pytest.raises(RequestError, match="can answer with") as refused:
            negotiate(accept)
        assert refused.value.status == 406
    else:
        assert negotiate(accept) == chosen


def test_a_wrong_method_is_refused_with_those_that_are_allowed(endpoint):
    for method, path, allowed in (
        ("GET", "/v1/segment", {"POST"}),
        ("DELETE", "/v1/model", {"GET", "HEAD"}),
        ("GET", "/v1/rollout/nudge", {"POST"}),
        ("POST", "/healthz", {"GET", "HEAD"}),
        ("PUT", "/v1/jobs/" + "0" * 32, {"GET", "HEAD", "DELETE"}),
    ):
        answer = endpoint.ask(method, path, key=endpoint.admin_key)
        assert answer.status_code == 405, path
        assert set(answer.headers["Allow"].split(", ")) == allowed
        assert answer.headers["content-type"] == "application/problem+json"


def test_head_is_answered_as_get_without_the_body(endpoint):
    for path, status in (("/healthz", 200), ("/readyz", 503), ("/", 200), ("/v1/model", 401)):
        get, head = endpoint.ask("GET", path), endpoint.ask("HEAD", path)
        assert (get.status_code, head.status_code) == (status, status)
        assert head.content == b""
        assert head.headers["content-type"] == get.headers["content-type"]


def test_the_endpoint_is_ready_while_replicas_of_the_served_version_are_alive(endpoint):
    served = {"name": "m", "version": 1, "run_id": "r", "sha256": "w", "manifest_sha256": "c"}
    served |= {"data_digest": "d", "backbone": "b", "image_size": 64, "num_frames": 5, "metrics": {}}
    release = Release(**served, classes=["background", "sounding"])
    for live, status in ((True, 200), (False, 503)):
        endpoint.followed.state = RolloutState(active="a", slots={"a": release, "b": None}, live=live)
        assert endpoint.ask("GET", "/readyz").status_code == status


def test_the_name_of_the_scheme_may_be_written_in_any_case(endpoint):
    for scheme, status in (("bearer", 503), ("BEARER", 503), ("Bearer  ", 503), ("Basic", 401), ("", 401)):
        headers = {"Authorization": f"{scheme} {endpoint.segment_key}"}
        assert endpoint.ask("GET", "/v1/model", headers=headers).status_code == status, scheme


def test_malformed_headers_are_refused_whoever_sends_them(endpoint):
    odd = "käse".encode()
    for name in ("authorization", "x-mlflow-signature", "accept", "x-request-id", "x-anything"):
        for key in (None, endpoint.admin_key):
            headers = {"Authorization": f"Bearer {key}"} if key and name != "authorization" else {}
            raw = [*httpx.Headers(headers).raw, (name.encode(), odd)]
            answer = endpoint.ask("POST", "/v1/rollout/nudge", headers=raw)
            assert (answer.status_code, answer.json()["status"]) == (400, 400), name
    long = endpoint.ask("GET", "/v1/model", headers={"X-Request-Id": "x" * 129})
    assert (long.status_code, "request_id" in long.json()) == (400, False)
    short = endpoint.ask("GET", "/v1/model", headers={"X-Request-Id": "x" * 128})
    assert (short.status_code, short.json()["request_id"]) == (401, "x" * 128)


def test_a_client_that_hangs_up_is_counted_as_499(endpoint):
    """And not as 500, which raises an alarm."""

    async def scenario() -> None:
        scope = segment_scope(endpoint.segment_key, content_type="multipart/form-data; boundary=x")
        waiting = asyncio.Event()

        async def receive() -> dict:
            waiting.set()
            await asyncio.Event().wait()
            return {}

        async def send(message: dict) -> None:
            raise AssertionError("nobody is there")

        request = asyncio.create_task(endpoint.app(scope, receive, send))
        await waiting.wait()
        request.cancel()  # as Serve does
        with pytest.raises(asyncio.CancelledError):
            await request

    async def late() -> None:
        """The connection is closed as soon as the whole response is there, before the endpoint has cleaned up."""
        scope = segment_scope(endpoint.segment_key, content_type="") | {"method": "GET", "path": "/healthz"}

        async def send(message: dict) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                asyncio.get_running_loop().call_soon(request.cancel)
                await asyncio.sleep(0)

        request = asyncio.create_task(endpoint.app(scope, asyncio.Event().wait, send))
        with contextlib.suppress(asyncio.CancelledError):
            await request

    asyncio.run(scenario())
    asyncio.run(late())
    counted = {
        (sample.labels["path"], sample.labels["status"]): sample.value
        for family in endpoint.metrics.requests.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }
    assert counted == {("/v1/segment", "499"): 1, ("/healthz", "200"): 1}


def test_the_endpoint_comes_up_only_when_a_version_serves():
    """KubeRay would else give it the traffic of the cluster that it replaces."""
    refused = Refusal(version=2, gate="golden", reason="differs", at=1.0)
    served_before = RolloutState(wanted=2)
    assert not may_start(RolloutState())
    assert not may_start(served_before)
    assert not may_start(served_before.model_copy(update={"refused": refused, "given_up": (1, 2)}))
    assert not may_start(RolloutState(trouble="MLflow does not answer"))
    assert may_start(RolloutState(active="a"))
    assert may_start(RolloutState(nothing_served=True, refused=refused)), (
        "the first one reports why it cannot serve"
    )


def small_png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_as_many_pictures_as_max_frames_allows_reach_the_decoder(tmp_path):
    endpoint = Endpoint(tmp_path, max_frames=1500, max_seconds=2000)
    picture = small_png()
    for count, expected in ((1200, (503, "no_model")), (1503, (413, "too_large"))):
        files = [("frames", ("a.png", picture)) for _ in range(count)]
        answer = endpoint.ask(
            "POST", "/v1/segment", key=endpoint.segment_key, files=[*files, ("audio", b"x")]
        )
        problem = answer.json()
        assert (answer.status_code, problem["type"].rpartition(":")[2]) == expected, problem
        assert problem.get("limit") == ("max_frames" if count > 1500 else None)


def test_slow_decodes_do_not_hold_up_a_quick_one(tmp_path):
    endpoint, held = Endpoint(tmp_path, fake=True, max_requests=8), threading.Event()
    decode, waiting = endpoint.decoder.samples, []

    def samples(upload: Upload, **options: Any) -> Any:
        if upload.fps == 2:
            waiting.append(upload)
            assert held.wait(patience(60))
        return decode(upload, **options)

    endpoint.decoder.samples = samples

    async def scenario() -> None:
        # As many threads as Serve gives an ingress.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(5))
        headers = {"Authorization": f"Bearer {endpoint.segment_key}"}
        transport = httpx.ASGITransport(app=endpoint.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as http:

            def ask(number: int, fps: str) -> asyncio.Task:
                files = {"video": f"clip {number}".encode()}
                return asyncio.create_task(http.post("/v1/segment", files=files, data={"fps": fps}))

            slow = [ask(number, "2") for number in range(7)]
            while len(waiting) < 7:
                await asyncio.sleep(0.01)
            assert (await asyncio.wait_for(ask(7, "1"), patience(20))).status_code == 200
            assert not any(request.done() for request in slow)
            held.set()
            assert {answer.status_code for answer in await asyncio.gather(*slow)} == {200}

    asyncio.run(scenario())


def test_every_status_that_is_returned_is_in_the_description(endpoint):
    key = endpoint.admin_key
    video = {"video": b"no video"}
    requests = [
        ("GET", "/healthz", {}),
        ("GET", "/healthz", {"headers": {"X-Request-Id": "x" * 200}}),
        ("GET", "/readyz", {}),
        *(("GET", path, {}) for path in ("/v1/model", "/v1/rollout", "/metrics")),
        *(("GET", path, {"key": key}) for path in ("/v1/model", "/v1/rollout", "/metrics")),
        *(("GET", path, {"key": endpoint.segment_key}) for path in ("/v1/rollout", "/metrics")),
        ("POST", "/v1/rollout/nudge", {}),
        ("POST", "/v1/rollout/nudge", {"key": endpoint.segment_key}),
        ("POST", "/v1/rollout/nudge", {"key": key}),
        ("POST", "/v1/segment", {"files": video}),
        ("POST", "/v1/segment", {"key": key, "files": video}),
        ("POST", "/v1/segment", {"key": key, "files": video, "data": {"fps": "0"}}),
        ("POST", "/v1/segment", {"key": key, "files": video, "headers": {"X-Model-Version": "7"}}),
        ("POST", "/v1/segment", {"key": key, "files": video, "headers": {"X-Model-Version": "seven"}}),
        ("POST", "/v1/segment", {"key": key, "files": video, "headers": {"Accept": "text/html"}}),
        ("POST", "/v1/segment", {"key": key, "content": b"{}"}),
        ("POST", "/v1/segment", {"key": key, "content": bytes(70_000_000)}),
        (
            "POST",
            "/v1/segment",
            {"key": key, "content": b"--", "headers": {"Content-Type": "multipart/form-data"}},
        ),
    ]
    sent = endpoint.ask("POST", "/v1/jobs", key=key, files=video)
    unknown, job = "/v1/jobs/" + "0" * 32, sent.headers["Location"]
    requests += [
        ("POST", "/v1/jobs", {"key": key, "files": video}),
        ("POST", "/v1/jobs", {"files": video}),
        ("POST", "/v1/jobs", {"key": key, "files": video, "data": {"webhook": "http://x/"}}),
        ("POST", "/v1/jobs", {"key": key, "files": video, "headers": {"Accept": "text/html"}}),
        *(("GET", path, {"key": key}) for path in (job, unknown, f"{job}/result", f"{unknown}/result")),
        ("GET", job, {"key": endpoint.segment_key}),
        *(("DELETE", path, {"key": key}) for path in (job, unknown)),
    ]
    described = endpoint.app.openapi()["paths"]
    seen: dict[str, set[int]] = {}
    for method, path, request in requests:
        status = endpoint.ask(method, path, **request).status_code
        path = re.sub("[0-9a-f]{32}", "{job_id}", path)
        seen.setdefault(path, set()).add(status)
        assert str(status) in described[path][method.lower()]["responses"], (method, path, status)
    assert set(described) == set(seen), "every path is asked"
    assert seen["/v1/segment"] >= {400, 401, 406, 409, 413, 415, 422, 503}


def test_a_keys_limits_hold_and_its_id_is_in_metrics_and_log(endpoint, caplog):
    keys = KeyFile.of(endpoint.config)
    limited = keys.add("segment", per_minute=2)
    number = keys.entries()[-1].id
    with caplog.at_level("INFO", logger="ray.serve"):
        answers = [
            endpoint.ask("POST", "/v1/segment", key=limited, files={"video": b"no video"}) for _ in range(3)
        ]
    assert [answer.status_code for answer in answers] == [503, 503, 429]
    assert answers[-1].json()["limit"] == "per_minute"
    assert int(answers[-1].headers["Retry-After"]) in range(1, 31)
    assert endpoint.ask("GET", "/v1/model", key=limited).status_code == 503, "only clips are counted"
    counted = {
        (sample.labels["key"], sample.labels["status"]): sample.value
        for family in endpoint.metrics.keys.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }
    assert counted == {(number, "503"): 3, (number, "429"): 1}
    assert f"key {number}: POST /v1/segment 429" in caplog.text
    assert limited not in caplog.text


def test_an_endpoint_without_keys_answers_to_its_own_names_and_pages_alone(tmp_path):
    endpoint = Endpoint(
        tmp_path, require_keys=False, allowed_hosts=("box.lan",), cors_origins=("https://t.example",)
    )

    def status(host: str, origin: str | None = None, method: str = "GET", path: str = "/healthz") -> int:
        headers = {"Host": host} | ({"Origin": origin} if origin else {})
        return endpoint.ask(method, path, headers=headers).status_code

    for host in ("127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "box.lan"):
        assert status(host) == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example", "", "[", "localhost@evil.example"):
        assert status(host) == 421, host
    assert status("localhost:8000", "http://localhost:8000") == 200
    assert status("localhost:8000", "http://box.lan") == 200
    assert status("localhost", "https://t.example") == 200
    for origin in ("https://evil.example", "null", "https://localhost.evil.example", "http://localhost:1"):
        assert status("localhost", origin, "POST", "/v1/rollout/nudge") == 403, origin


def test_pages_of_other_origins_are_let_in_where_the_config_names_them(tmp_path):
    asked = {"Origin": "https://t.example", "Access-Control-Request-Method": "POST"}
    asked |= {"Access-Control-Request-Headers": "authorization"}
    for origins, allowed in (((), None), (("https://t.example",), "https://t.example")):
        endpoint = Endpoint(tmp_path, cors_origins=origins)
        preflight = endpoint.ask("OPTIONS", "/v1/segment", headers=asked)
        assert preflight.headers.get("Access-Control-Allow-Origin") == allowed
        assert (preflight.status_code == 200) is (allowed is not None), "it is asked without a key"
        refused = endpoint.ask("GET", "/v1/model", headers={"Origin": "https://t.example"})
        assert (refused.status_code, refused.headers.get("Access-Control-Allow-Origin")) == (401, allowed)
    assert (
        "access-control-allow-origin"
        not in endpoint.ask("GET", "/v1/model", headers={"Origin": "https://evil.example"}).headers
    )


def test_a_browser_that_has_a_file_of_the_page_gets_it_once(endpoint):
    for path in ("/", "/page/main.js"):
        first = endpoint.ask("GET", path)
        tag = first.headers["ETag"]
        for known in (tag, f'"other", W/{tag}', "*"):
            again = endpoint.ask("GET", path, headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
        assert endpoint.ask("GET", path, headers={"If-None-Match": '"other"'}).content == first.content
