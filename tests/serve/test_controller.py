"""The rollout controller and its registry: no version's trouble keeps another one's tags from being written."""

import asyncio
from collections.abc import Callable

import pytest
from databases import mlflow_database
from mlflow.exceptions import MlflowException
from sdavs_platform.config.serve import RolloutConfig
from sdavs_platform.config.tree import ServeConfig
from sdavs_platform.tracking.client import mlflow_client
from sdavs_serve.rollout import controller as module
from sdavs_serve.rollout import registry, store
from sdavs_serve.rollout.controller import RolloutController
from sdavs_serve.rollout.state import RolloutState, TagWrite
from waiting import patience

CONFIG = ServeConfig(rollout=RolloutConfig(poll_s=0.05))


def write_of(version: int) -> TagWrite:
    return TagWrite(name="sdavs", version=version, tags={"rollout": "refused"})


@pytest.fixture
def kept(monkeypatch):
    """The rollout's document, in this process."""
    document = {"state": RolloutState(source=registry.source_digest(CONFIG))}

    def write(state: RolloutState) -> RolloutState:
        document["state"] = state.model_copy(update={"revision": state.revision + 1})
        return document["state"]

    monkeypatch.setattr(store, "read_state", lambda: document["state"])
    monkeypatch.setattr(store, "write_state", write)
    monkeypatch.setattr(store.ReportReader, "read", lambda self, state: {})
    monkeypatch.setattr(module, "TICK_S", 0.05)
    return document


def run_until(done: Callable[[], bool]) -> None:
    """Let a controller run until something is the case."""

    async def scenario() -> None:
        made = RolloutController(CONFIG, {})
        async with asyncio.timeout(patience(20)):
            while not done():
                await asyncio.sleep(0.02)
        made.check_health()
        made._loop.cancel()

    asyncio.run(scenario())


def test_tags_that_mlflow_does_not_take_hold_up_no_others(kept, monkeypatch):
    def nowhere(config: ServeConfig) -> None:
        raise ValueError("models:/sdavs@champion: not in the registry")

    def write(tags: TagWrite, config: ServeConfig) -> bool:
        if tags.version == 1:
            raise RuntimeError("no permission")
        return tags.version != 2  # which was deleted

    monkeypatch.setattr(registry, "look_up", nowhere)
    monkeypatch.setattr(registry, "write_tags", write)
    kept["state"] = kept["state"].model_copy(update={"outbox": tuple(write_of(v) for v in (1, 2, 3))})
    run_until(lambda: kept["state"].outbox == (write_of(1),))


def test_an_alias_that_leads_nowhere_is_in_the_document(kept, monkeypatch):
    def nowhere(config: ServeConfig) -> None:
        raise ConnectionError("<Connection object at 0x7f12ab>: refused")

    monkeypatch.setattr(registry, "look_up", nowhere)
    run_until(lambda: kept["state"].trouble == "<Connection object>: refused")
    assert kept["state"].history[-1].what == "the alias cannot be followed: <Connection object>: refused"


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ServeConfig:
    """A registry with three versions, of which the third bears no digests."""
    uri = mlflow_database(tmp_path_factory.mktemp("mlflow"))
    client = mlflow_client(uri)
    client.create_registered_model("sdavs")
    for version in ("1", "2", "3"):
        client.create_model_version("sdavs", source=f"file:///nowhere/{version}")
        for tag in ("sha256", "manifest_sha256") if version != "3" else ():
            client.set_model_version_tag("sdavs", version, tag, version)
    client.set_registered_model_alias("sdavs", "champion", "2")
    return ServeConfig(tracking_uri=uri)


@pytest.mark.slow
def test_the_registry_knows_what_served_last_and_what_was_refused(config):
    client = mlflow_client(config.tracking_uri)
    assert registry.last_served("sdavs", config) is None
    for version, at in (
        ("1", "2026-01-01T00:00:00+00:00"),
        ("2", "2026-01-02T00:00:00+00:00"),
        ("3", "2026-02"),
    ):
        client.set_model_version_tag("sdavs", version, "rollout_served_at", at)
    assert registry.last_served("sdavs", config).version == 2, "the third cannot be verified"
    assert (registry.look_up(config).tagged, registry.look_up(config).refusal) == (False, None)
    tags = {"rollout": "refused", "rollout_gate": "shadow", "rollout_reason": "differs"}
    tags["rollout_at"] = "2026-01-03T00:00:00+00:00"
    assert registry.write_tags(TagWrite(name="sdavs", version=2, tags=tags), config)
    found = registry.look_up(config)
    assert (found.tagged, found.refusal.gate, found.refusal.reason) == (True, "shadow", "differs")
    assert found.refusal.at == 1767398400.0
    assert registry.last_served("sdavs", config).version == 1


@pytest.mark.slow
def test_tags_of_a_deleted_version_are_dropped_and_other_errors_are_raised(config):
    assert registry.write_tags(write_of(99), config) is False
    with pytest.raises(MlflowException):
        registry.write_tags(TagWrite(name="sdavs", version=1, tags={"a/../b": "x" * 100_000}), config)
