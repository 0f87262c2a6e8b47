"""From a click in the MLflow UI to another version, or to a reason why not: under load, and with processes killed."""

import signal
import time

import psutil
import pytest
import yaml
from moments import deployment_of, promote_soon, reach, replaced
from spoiled import change_file, corrupt, spoil_golden
from stack import kill
from traffic import traffic
from waiting import wait_until


def test_a_good_version_takes_over_under_load_without_a_failed_request_and_back_at_once(stack, make_video):
    before = stack.serving()
    with traffic(stack, make_video(2)) as answers:
        better = stack.register(marked=0.95)
        stack.promote(better)
        state = stack.until(lambda state: state.served.version == better and state.phase == "idle")
        assert state.gates[-1].gate == "bake", state.gates
        time.sleep(1)
        stack.promote(before)
        stack.until(lambda state: state.served.version == before, seconds=5)
        state = stack.state()
        time.sleep(1)
    assert set(answers.statuses) == {200}, answers.refusals
    assert set(answers.masks) == {str(before), str(better)}
    apart = (answers.masks[str(before)] != answers.masks[str(better)]).mean()
    assert max(answers.deviations.values()) < 0.1 * apart, (
        "every answer is that of the version it names, whole"
    )
    assert [gate.gate for gate in state.gates] == [], "the way back is no rollout"
    stack.until(lambda state: not state.outbox)
    assert (stack.tags(before)["rollout"], stack.tags(better)["rollout"]) == ("serving", "served before")


def test_controller_and_replicas_may_be_killed_on_the_way_of_one_rollout(stack, make_video):
    """Every moment with every victim, each in a rollout of its own: `python tests/drills/kill_in_rollout.py`.

    The version has the same files as the one that the test before has left warm, and is not to be taken for it. The
    replica that is to load it hangs, and has to be replaced first.
    """
    victims = {"verify": [], "shadow": [], "canary": ["candidate"], "switch": ["served"]}
    with traffic(stack, make_video(2)) as answers:
        before, better = stack.serving(), stack.register(marked=0.95)
        controller = stack.processes("rollout")
        hanging = stack.processes(deployment_of("candidate", stack.state()))
        kill(hanging, signal.SIGSTOP)
        promote_soon(stack, better)
        for moment, others in victims.items():
            state = reach(stack, moment, better)
            kill(controller)
            for victim in others:
                kill(stack.processes(deployment_of(victim, state)))
            controller = replaced(stack, "rollout", controller)
        stack.until(lambda state: state.phase == "idle" and state.served.version == better)
        wait_until(
            lambda: not any(map(psutil.pid_exists, hanging)), what="the replica that hangs to be killed"
        )
        time.sleep(1)
    assert set(answers.statuses) == {200}, answers.refusals
    assert set(answers.masks) <= {str(before), str(better)}
    state = stack.state()
    assert (state.refused, state.served.version) == (None, better)
    # The end of a controller is not that of a replica. On a busy machine the next controller may start after the next
    # replica, and not see that one was lost (test_rollout_rules.py has what it does when it sees it).
    lost = {e.what for e in state.history if e.version == better and "was lost" in e.what}
    assert lost <= {"a replica was lost in the canary; waiting for another one"}


def _with_a_wrong_signature(stack) -> int:
    version = stack.register()

    def widen(content: bytes) -> bytes:
        model = yaml.safe_load(content)
        model["signature"]["inputs"] = model["signature"]["inputs"].replace("64, 64", "96, 96")
        return yaml.safe_dump(model).encode()

    change_file(stack, version, "MLmodel", widen)
    return version


@pytest.mark.parametrize(
    ("make", "gate", "reason"),
    [
        (corrupt, "digest", "sha256 differs"),
        (_with_a_wrong_signature, "signature", "MLmodel"),
        (lambda stack: stack.register(spoil=spoil_golden), "golden", "golden_tolerance"),
        (
            lambda stack: stack.register(seed=3, architecture="tpavi", shift=-50),
            "shadow",
            "max_disagreement",
        ),
        # On two cores it slows the served version, too, so it has to be far slower than the limit of four times.
        (lambda stack: stack.register(image_size=640), "shadow", "max_latency_ratio"),
    ],
    ids=[
        "corrupt",
        "wrong signature",
        "other golden answers",
        "another architecture that disagrees",
        "too slow",
    ],
)
def test_a_bad_version_is_stopped_at_its_gate_and_the_old_one_keeps_serving(
    stack, make_video, make, gate, reason
):
    before = stack.serving()
    version = make(stack)
    # One client leaves the version a core; under full load is the test above.
    with traffic(stack, make_video(2), num_clients=1) as answers:
        stack.promote(version)
        state = stack.until(lambda state: state.refused is not None and state.refused.version == version)
    assert (state.refused.gate, reason in state.refused.reason) == (gate, True), state.refused
    assert set(answers.statuses) == {200}, answers.refusals
    assert set(answers.masks) == {str(before)}, "nobody was answered by a version that is refused"
    state = stack.until(lambda state: not state.outbox)
    tags = stack.tags(version)
    assert (tags["rollout"], tags["rollout_gate"]) == ("refused", gate)
    assert reason in tags["rollout_reason"]
    assert state.served.version == before
    stack.promote(before)
    stack.until(lambda state: state.refused is None)


def test_models_of_other_architectures_take_over_one_after_the_other_without_a_failed_request(
    stack, make_video
):
    before = stack.serving()
    with traffic(stack, make_video(2)) as answers:
        for architecture in ("ddeseg", "tpavi"):
            version = stack.register(architecture=architecture, shift=50)
            stack.promote(version)
            state = stack.until(lambda state: state.served.version == version and state.phase == "idle")  # noqa: B023
            assert (state.served.architecture, state.gates[-1].gate) == (architecture, "bake")
            wait_until(lambda: str(version) in answers.masks, what=f"answers of {architecture}")  # noqa: B023
            assert answers.masks[str(version)].all(), "it marks everything"
        stack.promote(before)
        stack.until(lambda state: state.served.version == before and state.phase == "idle")
    assert set(answers.statuses) == {200}, answers.refusals
    assert len(answers.masks) == 3
    assert max(answers.deviations.values()) < 0.05


def test_mlflows_webhook_nudges_the_controller(stack):
    def nudges() -> float:
        return stack.metric("sdavs_requests_total", path="/v1/rollout/nudge", status="202")

    before = nudges()
    stack.promote(stack.serving())
    wait_until(lambda: nudges() > before, what="MLflow's call", every=0.5)
