"""Admission and webhooks: nobody holds the endpoint by sending a body slowly, or not at all."""

import asyncio
import base64
import json
import time
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI, Request
from sdavs_serve.http import admission, webhook
from sdavs_serve.http.admission import SEGMENT, Admission, UploadLimits
from sdavs_serve.http.auth import NUDGE, Authentication
from sdavs_serve.http.keys import KeyFile
from sdavs_serve.http.problems import handle_problems
from sdavs_serve.http.webhook import Webhooks
from waiting import patience

LIMITS = UploadLimits(
    max_requests=2, max_uploads=3, max_upload_mb=1, upload_timeout_s=60, min_upload_kb_s=100
)


class Client:
    """One HTTP request to an ASGI app, whose body is sent piece by piece."""

    def __init__(self, app, path: str, headers: dict[str, str] | None = None) -> None:
        self._body: asyncio.Queue = asyncio.Queue()
        self._sent: list[dict] = []
        raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": raw,
        }
        self.task = asyncio.create_task(app(scope, self._body.get, self._take))

    def send(self, body: bytes, *, more: bool = True) -> None:
        self._body.put_nowait({"type": "http.request", "body": body, "more_body": more})

    async def answer(self, *, seconds: float = 5) -> tuple[int, dict]:
        async with asyncio.timeout(patience(seconds)):
            await asyncio.shield(self.task)
        body = b"".join(message.get("body", b"") for message in self._sent)
        return self._sent[0]["status"], json.loads(body)

    async def _take(self, message: dict) -> None:
        self._sent.append(message)


@pytest.fixture
def app() -> FastAPI:
    """Answers an upload with its size as soon as `app.state.gate` is set."""
    made = FastAPI()
    made.state.gate = asyncio.Event()
    made.state.gate.set()

    @made.post(SEGMENT)
    async def segment(request: Request) -> int:
        size = len(await request.body())
        await made.state.gate.wait()
        return size

    made.add_middleware(Admission, limits=LIMITS)
    return made


def run(scenario) -> None:
    asyncio.run(scenario())


def test_an_upload_that_stalls_is_ended(app, monkeypatch):
    monkeypatch.setattr(admission, "GRACE_S", 0.2)

    async def scenario() -> None:
        silent, slow, fast = (Client(app, SEGMENT) for _ in range(3))
        slow.send(b"x" * 10_000)
        fast.send(b"x" * 10_000, more=False)
        assert await fast.answer() == (200, 10_000)
        for client in (silent, slow):
            status, problem = await client.answer()
            assert (status, problem["limit"]) == (408, "min_upload_kb_s")

    run(scenario)


def test_an_upload_that_is_fast_enough_may_take_its_time_but_not_for_ever(app, monkeypatch):
    monkeypatch.setattr(admission, "GRACE_S", 0.2)
    limits = UploadLimits(**{**vars(LIMITS), "upload_timeout_s": 0.5})
    endless = Admission(app, limits=limits)

    async def scenario() -> None:
        client = Client(endless, SEGMENT)
        while not client.task.done():
            client.send(b"x" * 10_000)
            await asyncio.sleep(0.02)
        status, problem = await client.answer()
        assert (status, problem["limit"]) == (408, "upload_timeout_s")

    run(scenario)


def test_slow_uploads_take_no_slot_from_requests_that_are_complete(app):
    async def scenario() -> None:
        slow = [Client(app, SEGMENT) for _ in range(LIMITS.max_uploads - 1)]
        await asyncio.sleep(0.05)
        for _ in range(4):
            quick = Client(app, SEGMENT)
            quick.send(b"abc", more=False)
            assert await quick.answer() == (200, 3)
        slow.append(Client(app, SEGMENT))
        await asyncio.sleep(0.05)
        status, problem = await Client(app, SEGMENT).answer()
        assert (status, problem["limit"]) == (429, "max_uploads")
        for client in slow:
            client.send(b"ab", more=False)
            assert await client.answer() == (200, 2)

    run(scenario)


def test_complete_uploads_beyond_max_requests_are_refused_and_each_slot_is_given_back(app):
    async def scenario() -> None:
        for _ in range(3):
            app.state.gate.clear()
            clients = [Client(app, SEGMENT) for _ in range(LIMITS.max_requests + 1)]
            await asyncio.sleep(0.05)
            for client in clients:
                client.send(b"abc", more=False)
            status, problem = await clients[-1].answer()
            assert (status, problem["limit"]) == (429, "max_requests")
            status, problem = await Client(app, SEGMENT).answer()
            assert (status, problem["limit"]) == (429, "max_requests"), "refused before its body is read"
            app.state.gate.set()
            assert [await client.answer() for client in clients[:-1]] == [(200, 3)] * LIMITS.max_requests

    run(scenario)


def test_an_upload_beyond_the_limit_is_refused_whatever_it_announces(app):
    async def scenario() -> None:
        honest = Client(app, SEGMENT, {"Content-Length": "1000001"})
        lying = Client(app, SEGMENT, {"Content-Length": "3"})
        lying.send(b"x" * 600_000)
        lying.send(b"x" * 600_000)
        for client in (honest, lying):
            status, problem = await client.answer()
            assert (status, problem["limit"]) == (413, "max_upload_mb")

    run(scenario)


@asynccontextmanager
async def nudged(tmp_path, headers: dict[str, str]):
    """A request to the nudge of an app that has keys and accepts webhooks; its body has not been sent yet."""
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    webhooks = Webhooks(secret)
    app = FastAPI()
    app.add_middleware(Authentication, keys=KeyFile(tmp_path / "keys.json"), accepts_webhooks=True)
    handle_problems(app)

    @app.post(NUDGE)
    async def nudge(request: Request) -> str:
        await webhooks.check(request)
        return "ok"

    clients = []

    def client() -> Client:
        clients.append(Client(app, NUDGE, headers))
        return clients[-1]

    yield client
    for made in clients:
        made.task.cancel()


def plausible(**changes: str) -> dict[str, str]:
    """Headers as MLflow sends them, with a signature of the right form that proves nothing."""
    headers = {
        "X-MLflow-Signature": "v1," + base64.b64encode(bytes(32)).decode(),
        "X-MLflow-Timestamp": str(int(time.time())),
        "X-MLflow-Delivery-Id": "1",
        "Content-Length": "10",
    }
    return {name: value for name, value in (headers | changes).items() if value}


@pytest.mark.parametrize(
    "changes",
    [
        {"X-MLflow-Signature": "x"},
        {"X-MLflow-Signature": "v1,AAAA"},
        {"X-MLflow-Timestamp": "0"},
        {"X-MLflow-Timestamp": "now"},
        {"Content-Length": ""},
        {"Content-Length": "100000"},
    ],
    ids=lambda changes: "-".join(next(iter(changes.items()))),
)
def test_a_signature_header_alone_does_not_have_the_body_read(tmp_path, changes):
    async def scenario() -> None:
        async with nudged(tmp_path, plausible(**changes)) as client:
            assert (await client().answer())[0] == 401

    run(scenario)


def test_webhooks_whose_body_does_not_come_are_few_and_do_not_last(tmp_path, monkeypatch):
    monkeypatch.setattr(webhook, "READ_S", 0.5)

    async def scenario() -> None:
        async with nudged(tmp_path, plausible()) as client:
            silent = [client() for _ in range(webhook.MAX_READING)]
            await asyncio.sleep(0.05)
            assert (await client().answer())[0] == 429
            assert [(await one.answer())[0] for one in silent] == [408] * webhook.MAX_READING
            late = client()
            late.send(b"x" * 10, more=False)
            assert (await late.answer())[0] == 401

    run(scenario)
