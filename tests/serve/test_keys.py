"""API keys: kept as digests, for one thing each, and asked for wherever others can connect."""

import asyncio
import stat
import time
from pathlib import Path

import httpx
import pytest
from in_process import FrozenClock
from mlflow.webhooks.delivery import _generate_hmac_signature
from sdavs_platform.config.tree import ServeConfig
from sdavs_serve.deployment import deploy
from sdavs_serve.errors import RequestError
from sdavs_serve.http.auth import Authentication
from sdavs_serve.http.key_limits import KeyLimits
from sdavs_serve.http.keys import Key, KeyFile, keys_required
from sdavs_serve.http.webhook import check_signature
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from waiting import patience


@pytest.fixture
def keys(tmp_path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


def ask(keys: KeyFile, path: str, token: str | None = None, **headers: str) -> int:
    """The status of a request to an app that answers everything, behind the endpoint's authentication."""

    async def anything(request: Request) -> PlainTextResponse:
        return PlainTextResponse("yes")

    async def send() -> int:
        app = Starlette(routes=[Route("/{path:path}", anything, methods=["GET", "POST"])])
        guarded = Authentication(app, keys=keys, accepts_webhooks=True)
        transport = httpx.ASGITransport(app=guarded)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            bearer = {"Authorization": f"Bearer {token}"} if token else {}
            return (await client.post(path, headers=bearer | headers)).status_code

    return asyncio.run(send())


def test_a_key_is_kept_as_its_digest_and_readable_by_its_owner_alone(keys):
    token = keys.add("segment", note="phone")
    assert token not in keys.path.read_text()
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    assert [(key.scope, key.note) for key in keys.entries()] == [("segment", "phone")]


def test_keys_grant_what_their_scope_allows(keys):
    segment, admin = keys.add("segment"), keys.add("admin")
    paths = ("/v1/segment", "/v1/model", "/v1/rollout", "/v1/rollout/nudge", "/metrics", "/v1/whatever")
    assert [ask(keys, path, segment) for path in paths] == [200, 200, 403, 403, 403, 403]
    assert {ask(keys, path, admin) for path in paths} == {200}
    assert {ask(keys, path) for path in paths} == {401}
    assert {ask(keys, path, "sdavs_wrong") for path in paths} == {401}
    assert {ask(keys, path) for path in ("/", "/healthz", "/readyz", "/docs")} == {200}


def test_a_removed_key_stops_working_at_once(keys):
    token = keys.add("segment")
    assert ask(keys, "/v1/segment", token) == 200
    keys.remove(keys.entries()[0].id)
    assert ask(keys, "/v1/segment", token) == 401
    with pytest.raises(ValueError, match="no key 1234"):
        keys.remove("1234")


def test_a_damaged_key_file_lets_nobody_in_and_is_not_quoted(keys):
    keys.path.write_text("sdavs_secret")
    with pytest.raises(ValueError, match="not a key file") as refused:
        ask(keys, "/v1/segment", "sdavs_secret")
    assert "sdavs_secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "required"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True), ("10.0.0.5", True)]
)
def test_keys_are_required_wherever_others_can_connect(host, required):
    assert keys_required(ServeConfig(host=host)) is required
    assert keys_required(ServeConfig(host=host, require_keys=True))


def test_an_endpoint_for_others_is_not_deployed_without_keys(stack, tmp_path):
    config = stack.config.model_copy(update={"keys_file": str(tmp_path / "none.json")})
    assert config.host == "0.0.0.0"
    with pytest.raises(ValueError, match=r"has no API key; create one with `python jobs/keys.py add"):
        deploy(config, dashboard=stack.dashboard)


def test_a_real_endpoint_requires_keys_and_no_log_holds_one(stack, make_video):
    wrong = "sdavs_" + "w" * 40
    tokens = {None: None, "wrong": wrong} | stack.keys_by_scope
    paths = {"/v1/segment": "POST", "/v1/model": "GET", "/v1/rollout": "GET", "/metrics": "GET"}

    def answered(token: str | None) -> list[int]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return [
            httpx.request(
                method,
                stack.address + path,
                headers=headers,
                timeout=patience(60),
                files={"video": make_video(1)} if method == "POST" else None,
            ).status_code
            for path, method in paths.items()
        ]

    assert {who: answered(token) for who, token in tokens.items()} == {
        None: [401] * 4,
        "wrong": [401] * 4,
        "segment": [200, 200, 403, 403],
        "admin": [200] * 4,
    }
    assert httpx.get(f"{stack.address}/healthz", timeout=patience(30)).status_code == 200
    stack.promote(stack.serving())  # MLflow signs its webhook with the secret
    texts = [path.read_text(errors="replace") for path in stack.folder.rglob("*") if is_log(path)]
    assert any("/v1/segment 401" in text for text in texts), "requests are logged"
    for secret in (*stack.keys_by_scope.values(), wrong, stack.webhook_secret):
        assert not any(secret in text for text in texts)


def is_log(path: Path) -> bool:
    """What the stack writes for people to read."""
    return path.is_file() and path.suffix in (".log", ".out", ".err", ".txt")


def test_a_webhook_is_believed_if_mlflow_signed_it_lately(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")

    def headers(body: str, at: float, key: str = "s3cret") -> Headers:
        stamp = str(int(at))
        signature = _generate_hmac_signature(key, "delivery", stamp, body)
        return Headers(
            {
                "X-MLflow-Signature": signature,
                "X-MLflow-Timestamp": stamp,
                "X-MLflow-Delivery-Id": "delivery",
            }
        )

    check_signature(headers("{}", time.time()), b"{}", secret_file=secret)
    for wrong in (
        (headers("{}", time.time()), b"{1}"),
        (headers("{}", time.time() - 3600), b"{}"),
        (headers("{}", time.time(), key="other"), b"{}"),
    ):
        with pytest.raises(RequestError, match="wrong or old"):
            check_signature(*wrong, secret_file=secret)


def key(**limits: int) -> Key:
    return Key(id="1f2e3d4c", scope="segment", sha256="", created=0.0, **limits)


def refused(limits: KeyLimits, made: Key) -> tuple[str, int]:
    """The limit that refuses a request, and the seconds to wait."""
    with pytest.raises(RequestError, match="key 1f2e3d4c may send") as error:
        limits.begin(made)
    assert error.value.status == 429
    return error.value.limit, error.value.retry_after_s


def test_a_key_has_only_so_many_requests_at_once():
    limits, made = KeyLimits(clock=FrozenClock(0.0)), key(at_once=2)
    limits.begin(made)
    limits.begin(made)
    assert refused(limits, made) == ("at_once", 1)
    limits.end(made, status=200)
    limits.begin(made)


def test_a_key_has_so_many_requests_a_minute_and_earns_them_back_one_by_one():
    clock = FrozenClock(1000.0)
    limits, made = KeyLimits(clock=clock), key(per_minute=3)
    for _ in range(3):
        limits.begin(made)
    assert refused(limits, made) == ("per_minute", 20)
    clock.now += 15
    assert refused(limits, made) == ("per_minute", 5)
    clock.now += 5
    limits.begin(made)
    clock.now += 3600
    for _ in range(3):
        limits.begin(made)
    assert refused(limits, made)[0] == "per_minute", "what was not used does not add up"


def test_a_key_has_so_many_requests_a_day_and_failures_of_the_endpoint_are_not_among_them():
    clock = FrozenClock(10 * 86_400 - 90.0)
    limits, made = KeyLimits(clock=clock), key(per_day=2)
    for status in (503, 429, 200, 422):
        limits.begin(made)
        limits.end(made, status=status)
    assert refused(limits, made) == ("per_day", 90)
    clock.now += 90
    limits.begin(made)


def test_a_key_expires(keys, monkeypatch):
    token = keys.add("segment", days=1)
    assert ask(keys, "/v1/segment", token) == 200
    tomorrow = time.time() + 86_401
    monkeypatch.setattr(time, "time", lambda: tomorrow)
    assert ask(keys, "/v1/segment", token) == 401
    assert keys.entries()[0].limits().startswith("expired")
    with pytest.raises(ValueError, match="days: 0; allowed: above 0"):
        keys.add("segment", days=0)
    with pytest.raises(ValueError, match="per_day: 0; allowed: from 1"):
        keys.add("segment", per_day=0)


def test_key_files_from_before_limits_are_read_and_written_as_they_were(keys):
    keys.add("segment", note="phone")
    assert "expires" not in keys.path.read_text()
    assert keys.entries()[0].limits() == ""
