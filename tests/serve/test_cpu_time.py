"""CPU time of an endpoint's processes, as the benchmark of the endpoint prints it."""

import subprocess
import sys

import pytest
from sdavs_serve.app import CONTROLLER, INGRESS, MODEL
from sdavs_serve.decoding import fork_server
from sdavs_serve.deployment import APPLICATION
from sdavs_serve.tools import cpu_time


@pytest.mark.parametrize(
    ("command", "part"),
    [
        (f"ray::ServeReplica:{APPLICATION}:{INGRESS}", cpu_time.INGRESS),
        (f"ray::ServeReplica:{APPLICATION}:{MODEL.format(slot='b')}", cpu_time.MODEL),
        (f"ray::ServeReplica:{APPLICATION}:{CONTROLLER}", cpu_time.CONTROLLERS),
        ("ray::ServeController", cpu_time.CONTROLLERS),
        ("ray::ProxyActor", cpu_time.PROXY),
        (f"python -m {fork_server.__name__} 12", cpu_time.DECODERS),
        ("/ray/core/src/ray/raylet/raylet --raylet_socket_name=x", cpu_time.RAYLET),
        ("python -u /ray/dashboard/agent.py", cpu_time.REST),
    ],
)
def test_processes_are_known_by_their_command_lines(command, part):
    assert cpu_time.part_of(command) == part


def test_a_busy_process_below_this_one_is_counted():
    program = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True)\ninput()"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    before = cpu_time.cpu_seconds()
    process.stdout.readline()
    after = cpu_time.cpu_seconds()
    process.communicate("\n")
    assert 0.2 < after[cpu_time.REST] - before[cpu_time.REST] < 3
    assert after[cpu_time.CLIENT] >= before[cpu_time.CLIENT] > 0
    assert after[cpu_time.INGRESS] == before[cpu_time.INGRESS] == 0


def test_what_processes_take_without_requests_is_no_cost_of_a_request():
    nothing = dict.fromkeys(cpu_time.PARTS, 0.0)
    after = nothing | {cpu_time.MODEL: 3.0, cpu_time.RAYLET: 0.5}
    idle_s = nothing | {cpu_time.MODEL: 1.0, cpu_time.RAYLET: 0.6}
    spent = cpu_time.per_request(nothing, after, num_requests=100, idle_s=idle_s)
    assert spent == nothing | {cpu_time.MODEL: pytest.approx(20.0)}
