"""Delete a worker's pod while it trains: the preStop hook of the manifests, on machines inside this one (needs root).

    .venv/bin/python infra/check/preemption.py

The training runs on two machines with a worker each (infra/local/multinode.py). On one of them the preStop hook runs,
exactly as Kustomize builds it for `overlays/gpu`, as the kubelet does when a spot node is reclaimed. All workers must
save after the same step, Ray must leave that machine within the pod's grace period, and once the machine is back, as a
new pod would be, the training must continue at the next step. About two minutes on two cores.
"""

import subprocess
import sys
import time
from pathlib import Path

from manifests import build

sys.path.append(str(Path(__file__).resolve().parents[1] / "local"))

from followed import RESUMED, STEP
from machines import Network, why_not
from multinode import RAY_PORT, Site, running_site

AFTER_STEP = 30
LEAVES = "PreemptedError"
"""What Ray Train logs when the workers have saved and left."""


def main() -> int:
    if reason := why_not():
        print(f"skipped: {reason}")
        return 0
    hook, grace_s = of_the_manifest()
    with running_site(Network("10.213.78"), prefix="sdavs-pod-") as site:
        return preempt(site, hook, grace_s)


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


def preempt(site: Site, hook: list[str], grace_s: int) -> int:
    """Run a training, delete the pod and start it again; returns the exit status."""
    training = site.train("spot")
    training.wait_for_step(AFTER_STEP)
    began = time.monotonic()
    # What KubeRay sets in a worker's container in addition to the token.
    environment = site.environment | {"RAY_ADDRESS": f"{site.head.address}:{RAY_PORT}"}
    print(f"the pod is deleted after step {training.newest_step()}: its hook begins", flush=True)
    log = site.folder / "hook.log"
    with log.open("w") as output:
        kubelet = subprocess.Popen(
            site.other.command(*hook, environment=environment), stdout=output, stderr=subprocess.STDOUT
        )
    saved, _ = training.wait_for(lambda text: LEAVES in text, since=began)
    print(f"{saved - began:4.0f} s  all workers have saved and left", flush=True)
    kubelet.wait(grace_s)
    print(f"{time.monotonic() - began:4.0f} s  the hook is over; it may take {grace_s} s", flush=True)
    gone = site.other.run("pgrep", "-x", "raylet").returncode != 0
    # Then the kubelet ends the container; the machine starts Ray again.
    site.other.run("pkill", "-TERM", "-f", "bin/ray start --block", check=True)
    resumed = training.wait_for_resume(since=saved)
    # Ray forwards the workers' output in batches, so the order of the lines counts, not their time.
    before = RESUMED.split((site.folder / "spot.log").read_text())[0]
    last = max(int(step) for step in STEP.findall(before))
    training.wait_for_step(resumed + 1, since=saved)
    print(
        f"{time.monotonic() - began:4.0f} s  in a new pod the training resumes after step {resumed}; "
        f"{last} was the last one logged",
        flush=True,
    )
    if not gone or resumed != last:
        print(f"output of the hook:\n{log.read_text()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
