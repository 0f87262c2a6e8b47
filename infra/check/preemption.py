"""Delete a worker's pod while it trains: the preStop hook of the manifests, on machines inside this one (needs root).

    .venv/bin/python infra/check/preemption.py

The training runs on two machines with a worker each (infra/local/multinode.py). One of them gets what the kubelet does
to the pod of a spot node: the hook, word by word as Kustomize builds it for `overlays/gpu`. All workers must save after
the same step, Ray must leave that machine within the pod's grace period, and once it is back, as a new pod would be,
the training must go on at the very next step. About two minutes on two cores.
"""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from manifests import build

sys.path.append(str(Path(__file__).resolve().parents[1] / "local"))

from followed import RESUMED, STEP
from machines import Network, why_not
from multinode import RAY_PORT, Site

AFTER_STEP = 30
LEAVES = "PreemptedError"
"""What Ray Train says when the workers have saved and left."""


def main() -> int:
    if reason := why_not():
        print(f"skipped: {reason}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # in order, so that nothing is left behind
    hook, grace_s = of_the_manifest()
    with tempfile.TemporaryDirectory(prefix="sdavs-pod-") as folder, Network("10.213.78") as network:
        site = Site(network, Path(folder))
        try:
            site.start()
            return tell(site, hook, grace_s, folder=Path(folder))
        finally:
            site.stop()


def of_the_manifest() -> tuple[list[str], int]:
    """The command of the preStop hook of the GPU workers, and the pod's grace period in seconds."""
    (cluster,) = (manifest for manifest in build("gpu") if manifest["kind"] == "RayCluster")
    (pod,) = (
        group["template"]["spec"]
        for group in cluster["spec"]["workerGroupSpecs"]
        if group["groupName"] == "gpu"
    )
    hook = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    return hook, pod["terminationGracePeriodSeconds"]


def tell(site: Site, hook: list[str], grace_s: int, *, folder: Path) -> int:
    """The training and the pod's end, told as they happen; returns the exit status."""
    training = site.train("spot")
    training.wait_for_step(AFTER_STEP)
    began = time.monotonic()
    # What KubeRay gives a worker's container beside the token.
    told = site.environment | {"RAY_ADDRESS": f"{site.head.address}:{RAY_PORT}"}
    print(f"the pod is deleted after step {training.newest_step()}: its hook begins", flush=True)
    log = folder / "hook.log"
    with log.open("w") as output:
        kubelet = subprocess.Popen(
            site.other.command(*hook, environment=told), stdout=output, stderr=subprocess.STDOUT
        )
    saved, _ = training.wait_for(lambda text: LEAVES in text, since=began)
    print(f"{saved - began:4.0f} s  all workers have saved and left", flush=True)
    kubelet.wait(grace_s)
    print(f"{time.monotonic() - began:4.0f} s  the hook is over; it may take {grace_s} s", flush=True)
    gone = site.other.run("pgrep", "-x", "raylet").returncode != 0
    # Then the kubelet ends the container; the machine starts Ray anew.
    site.other.run("pkill", "-TERM", "-f", "bin/ray start --block", check=True)
    resumed = training.wait_for_resume(since=saved)
    # Ray sends what workers say in heaps, so the lines' order tells, not their time.
    before = RESUMED.split((folder / "spot.log").read_text())[0]
    last = max(int(step) for step in STEP.findall(before))
    training.wait_for_step(resumed + 1, since=saved)
    print(
        f"{time.monotonic() - began:4.0f} s  in a new pod the training goes on after step {resumed}; "
        f"{last} was the last one told",
        flush=True,
    )
    if not gone or resumed != last:
        print(f"the hook said:\n{log.read_text()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
