"""The local stack as `make demo` and a user's shell meet it: real Ray, real MLflow, real signals."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from running import process
from sdavs_platform.local import processes, ray_head, stack, state
from sdavs_platform.local.processes import Service
from sdavs_platform.local.state import MLflowState, RayState, StackState
from waiting import patience, wait_until

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


@dataclass(frozen=True, kw_only=True)
class Shell:
    """A user with an empty home folder; several can be on one machine."""

    home: Path
    ports: list[str]

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
        return kept | {
            "HOME": str(self.home),
            "SDAVS_HOME": str(self.home / "state"),
            "RAY_TMPDIR": str(self.home),
            "RAY_worker_niceness": os.environ["RAY_worker_niceness"],  # noqa: SIM112 - Ray's own name
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }

    def state(self) -> StackState:
        return state.read(self.home / "state")

    def type(self, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, shell=True, cwd=ROOT, env=self.environment | variables, capture_output=True, text=True
        )


def free_ports() -> list[str]:
    flags = []
    for name in ("ray", "dashboard", "mlflow", "endpoint"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            flags += [f"--{name}-port", str(probe.getsockname()[1])]
    return flags


def processes_of(shell: Shell) -> list[psutil.Process]:
    """All that run for this user, however they were started: Ray's and MLflow's inherit the home folder."""
    mine = []
    for one in psutil.process_iter():
        try:
            if one.environ().get("HOME") == str(shell.home) and one.status() != psutil.STATUS_ZOMBIE:
                mine.append(one)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return mine


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    # Not tmp_path: Ray's socket names would grow beyond what the system allows.
    home = Path(tempfile.mkdtemp(prefix="sdavs-", dir="/tmp"))
    user = Shell(home=home, ports=free_ports())
    try:
        yield user
    finally:
        user.type("python jobs/demo.py --stop")
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def starts(shell: Shell) -> list[StackState]:
    """What was up after a first and after a second start."""
    wanted = zip(shell.ports[::2], shell.ports[1::2], strict=True)
    ports = ", ".join(f"{flag.removeprefix('--').removesuffix('-port')}={port}" for flag, port in wanted)
    code = f"from sdavs_platform.local.stack import *; up(ports=Ports({ports}))"
    states = []
    for _ in range(2):
        ran = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=shell.environment, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        states.append(shell.state())
    return states


def test_a_second_start_reuses_what_the_first_started(starts: list[StackState]):
    first, second = starts
    assert first == second
    assert first.ray
    assert first.ray.service
    assert first.ray.service.is_alive()


def test_the_token_that_guards_ray_is_readable_by_its_owner_only(shell: Shell, starts: list[StackState]):
    token = shell.home / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_a_stranger_without_the_token_cannot_submit_jobs(starts: list[StackState]):
    assert starts[0].ray
    answer = httpx.get(f"{starts[0].ray.dashboard}/api/jobs/", trust_env=False, timeout=patience(60))
    assert answer.status_code == 401


@pytest.mark.parametrize("options", ["", "--working-dir . "])
def test_a_job_typed_by_hand_runs_in_the_checkout_in_spite_of_the_token(
    shell: Shell, starts: list[StackState], options: str
):
    assert starts[0].ray
    # The variable only because the test's Ray is not on Ray's own port.
    ran = shell.type(
        f"ray job submit {options}-- python jobs/train.py --help",
        RAY_API_SERVER_ADDRESS=starts[0].ray.dashboard,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "--training.epochs" in ran.stdout


def test_stopping_ends_all_that_was_started_and_nothing_else(shell: Shell, starts: list[StackState]):
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        assert processes_of(shell)
        ran = shell.type("python jobs/demo.py --stop")
        assert ran.returncode == 0, ran.stderr
        assert not processes_of(shell)
        assert shell.state() == StackState()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_ctrl_c_leaves_nothing_running(shell: Shell):
    command = [sys.executable, "jobs/demo.py", *shell.ports]
    with process(command, cwd=ROOT, env=shell.environment, stdout=subprocess.PIPE, text=True) as demo:
        for line in demo.stdout:
            if line.startswith("[2/"):
                break
        demo.send_signal(signal.SIGINT)
        demo.stdout.read()
        assert demo.wait(timeout=patience(60)) == 130
        assert not processes_of(shell)


def test_ray_is_started_again_when_it_ends_during_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started: list[RayState] = []

    def start(**_: object) -> RayState:
        command = ["sleep", "60"] if started else ["false"]
        service = processes.start(command, cwd=tmp_path, environment=os.environ, log=tmp_path / "log")
        started.append(RayState(dashboard="http://127.0.0.1:1", gcs_address="127.0.0.1:1", service=service))
        return started[-1]

    monkeypatch.setattr(ray_head, "start", start)
    monkeypatch.setattr(ray_head, "accepts_jobs", lambda dashboard: len(started) == 2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    ports = {name: processes.next_free(port) for name, port in [("ray", 23000), ("dashboard", 24000)]}
    try:
        assert stack.up(ports=stack.Ports(**ports), home=tmp_path).ray == started[1]
        assert state.read(tmp_path).ray == started[1]
    finally:
        # Not all children of this process: those of other tests may ignore the request to end.
        for one in started:
            assert one.service
            one.service.stop()


def test_what_a_process_starts_while_it_ends_is_ended_with_it(tmp_path: Path):
    log = tmp_path / "log"
    script = 'trap "sleep 321 & exit" TERM; echo ready; while :; do sleep 0.05; done'
    service = processes.start(["bash", "-c", script], cwd=tmp_path, environment=os.environ, log=log)
    try:
        wait_until(lambda: "ready" in log.read_text(), what="the script", every=0.02)
    finally:
        service.stop()
    assert ["sleep", "321"] not in [one.info["cmdline"] for one in psutil.process_iter(["cmdline"])]


def test_a_child_that_nobody_remembers_is_ended_with_the_rest(tmp_path: Path):
    program = (
        "import subprocess\nimport psutil\nfrom sdavs_platform.local.processes import stop_children\n"
        "child = subprocess.Popen(['sleep', '322'], start_new_session=True)\n"
        "stop_children()\nprint(psutil.pid_exists(child.pid))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_a_service_that_died_is_not_taken_for_a_running_one(tmp_path: Path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    dead = MLflowState(uri="http://127.0.0.1:1", service=Service(pid=gone.pid, started=time.time()))
    state.write(tmp_path, StackState(mlflow=dead))
    assert state.read(tmp_path) == StackState()


def test_a_port_that_another_process_holds_is_passed_over():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert processes.next_free(taken) > taken
