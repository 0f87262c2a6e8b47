"""CPU time of an endpoint on a private Ray, by its processes.

Unlike the time by the clock, it hardly depends on what else the machine does.
"""

import contextlib
from collections import Counter
from collections.abc import Mapping

import psutil

CLIENT, PROXY, INGRESS, DECODERS, MODEL = "client", "Serve proxy", "ingress", "decoders", "model"
CONTROLLERS, RAYLET, REST = "controllers", "raylet and GCS", "rest of Ray"

PARTS = (CLIENT, PROXY, INGRESS, DECODERS, MODEL, CONTROLLERS, RAYLET, REST)

FORK_SERVER = "sdavs_serve.decoding.fork_server"

TITLES = {
    PROXY: ("ray::ProxyActor",),
    INGRESS: ("ray::ServeReplica:sdavs:ingress",),
    MODEL: ("ray::ServeReplica:sdavs:model-",),
    CONTROLLERS: ("ray::ServeReplica:sdavs:rollout", "ray::ServeController"),
    RAYLET: ("raylet/raylet", "gcs/gcs_server"),
    DECODERS: (FORK_SERVER,),
}
"""What the command lines of these processes contain; Ray renames those of its actors."""


def part_of(command: str) -> str:
    """Which of PARTS a process with this command line belongs to, if it is not the client."""
    return next((part for part, titles in TITLES.items() if any(title in command for title in titles)), REST)


def cpu_seconds() -> dict[str, float]:
    """Seconds of CPU time, user and system, that each of PARTS has taken so far; this process is the client.

    A decoder counts as soon as it has ended.
    """
    client = psutil.Process()
    spent: Counter[str] = Counter(dict.fromkeys(PARTS, 0.0))
    times = client.cpu_times()
    spent[CLIENT] = times.user + times.system
    for process in client.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            part, times = part_of(" ".join(process.cmdline())), process.cpu_times()
            if part != DECODERS:
                spent[part] += times.user + times.system
            elif FORK_SERVER not in " ".join(process.parent().cmdline()):
                # Its children are the decoders, whose time it is given when they have ended.
                spent[part] += times.user + times.system + times.children_user + times.children_system
    return dict(spent)


def per_request(
    before: Mapping[str, float], after: Mapping[str, float], *, num_requests: int, idle_s: Mapping[str, float]
) -> dict[str, float]:
    """Milliseconds of CPU time that one request took in each of PARTS.

    Args:
        before, after: `cpu_seconds` before and after the requests.
        num_requests: how many there were.
        idle_s: seconds of CPU time that each part would have taken meanwhile without requests.
    """
    return {part: 1000 * max(0.0, after[part] - before[part] - idle_s[part]) / num_requests for part in PARTS}
