"""From a click in the MLflow UI to another version, or to a reason why not: under load, and with processes killed."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

# In proportion to the step: the same clip's answers come from a handful of threads.
NUM_CLIENTS = 2


@contextmanager
def load(stack, video: bytes) -> Iterator[Counter[tuple[int, str]]]:
    """Constant load; counts answers by (status, version)."""
    answers: Counter[tuple[int, str]] = Counter()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            answer = stack.post(video=video)
            answers[(answer.status_code, answer.headers.get("X-Model-Version", answer.text))] += 1

    clients = [threading.Thread(target=ask) for _ in range(NUM_CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield answers
    finally:
        over.set()
        for client in clients:
            client.join()


def spoil_golden(folder: Path) -> None:
    """Golden clips of another model, with all digests right."""
    tensors = load_file(folder / "golden.safetensors")
    tensors["logits"] += tensors["logits"].abs().max() * 0.1
    save_file(tensors, folder / "golden.safetensors")
    card = json.loads((folder / "sdavs.json").read_text())
    card["sha256"]["golden.safetensors"] = sha256((folder / "golden.safetensors").read_bytes()).hexdigest()
    (folder / "sdavs.json").write_text(json.dumps(card))


def change_file(stack, version: int, name: str, change) -> None:
    """Change a registered version's file where MLflow keeps it."""
    source = stack.client.get_model_version_download_uri("sdavs", str(version))
    path = Path(source.removeprefix("file://")) / name
    path.write_bytes(change(path.read_bytes()))


def test_a_good_version_takes_over_under_load_without_a_failed_request_and_back_at_once(stack, make_video):
    before = stack.serving()
    with load(stack, make_video(2)) as answers:
        better = stack.register(seed=1)
        stack.promote(better)
        stack.until(lambda state: stack.serving() == better and state.phase == "idle")
        time.sleep(1)
        stack.promote(before)
        stack.until(lambda state: state.served.version == before, seconds=5)
        state = stack.state()
        time.sleep(1)
    assert {status for status, _ in answers} == {200}, answers
    assert {version for _, version in answers} == {str(before), str(better)}
    assert [gate.gate for gate in state.gates] == [], "the way back is no rollout"
    stack.until(lambda state: not state.outbox)
    assert (stack.tags(before)["rollout"], stack.tags(better)["rollout"]) == ("serving", "served before")


def _corrupt(stack) -> int:
    version = stack.register(seed=2)
    change_file(stack, version, "model.safetensors", lambda content: content[:-1] + b"!")
    return version


def _with_a_wrong_signature(stack) -> int:
    version = stack.register(seed=1)

    def widen(content: bytes) -> bytes:
        model = yaml.safe_load(content)
        model["signature"]["inputs"] = model["signature"]["inputs"].replace("64, 64", "96, 96")
        return yaml.safe_dump(model).encode()

    change_file(stack, version, "MLmodel", widen)
    return version


@pytest.mark.parametrize(
    ("make", "gate", "reason"),
    [
        (_corrupt, "digest", "sha256 differs"),
        (_with_a_wrong_signature, "signature", "MLmodel"),
        (lambda stack: stack.register(seed=1, spoil=spoil_golden), "golden", "golden_tolerance"),
        (lambda stack: stack.register(seed=3), "shadow", "max_disagreement"),
        (lambda stack: stack.register(seed=1, image_size=512), "shadow", "max_latency_ratio"),
    ],
    ids=["corrupt", "wrong signature", "other golden answers", "disagreeing", "too slow"],
)
def test_a_bad_version_is_stopped_at_its_gate_and_the_old_one_goes_on(stack, make_video, make, gate, reason):
    before = stack.serving()
    version = make(stack)
    with load(stack, make_video(2)) as answers:
        stack.promote(version)
        state = stack.until(lambda state: state.refused is not None and state.refused.version == version)
    assert (state.refused.gate, reason in state.refused.reason) == (gate, True), state.refused
    assert set(answers) == {(200, str(before))}, "nobody was answered by a version that is refused"
    state = stack.until(lambda state: not state.outbox)
    tags = stack.tags(version)
    assert (tags["rollout"], tags["rollout_gate"]) == ("refused", gate)
    assert reason in tags["rollout_reason"]
    assert state.served.version == before
    stack.promote(before)
    stack.until(lambda state: state.refused is None)


def test_controller_and_replicas_may_be_killed_in_any_phase(stack, make_video):
    with load(stack, make_video(2)) as answers:
        before, better = stack.serving(), stack.register(seed=1)
        stack.promote(better)
        killed = []
        while stack.serving() == before:
            state = stack.state()
            if state.phase != "idle" and state.phase not in killed:
                stack.kill("rollout")
                killed.append(state.phase)
            if state.phase == "canary" and "candidate" not in killed:
                stack.kill(f"model-{state.other}")
                killed.append("candidate")
            time.sleep(0.1)
        stack.kill(f"model-{stack.state().active}")
        stack.until(lambda state: state.phase == "idle" and state.served.version == better)
        time.sleep(1)
    assert {"shadow", "canary", "candidate"} <= set(killed)
    assert {status for status, _ in answers} == {200}, answers
    assert {version for _, version in answers} <= {str(before), str(better)}
    state = stack.state()
    assert (state.refused, state.served.version) == (None, better)
    assert any("a copy was lost" in event.what for event in state.history)


def test_mlflows_webhook_nudges_the_controller(stack):
    def nudges() -> float:
        return stack.metric("sdavs_requests_total", path="/v1/rollout/nudge", status="202")

    before = nudges()
    stack.promote(stack.serving())
    deadline = time.monotonic() + 30
    while nudges() == before:
        assert time.monotonic() < deadline, "MLflow has not called"
        time.sleep(0.5)
