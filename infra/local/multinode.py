"""A training on two machines whose link is cut twice and healed (`make multinode-test`; needs root).

    .venv/bin/python infra/local/multinode.py

The machines (see `machines`) share a network and nothing else: data, checkpoints and weights go through a server that
speaks S3. The first cut is short; the second lasts until Ray has given the machine up. Afterwards the weights must be
those of a training that nothing disturbed, bit by bit, and MLflow must have heard of every step once.
"""

import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from followed import Followed
from machines import HOME, Machine, Network, why_not
from sdavs_platform.local import processes
from sdavs_platform.local.object_store import ObjectStore
from sdavs_platform.tracking.runs import TrainingRun

CHECKOUT = Path(__file__).resolve().parents[2]
BUCKET = "sdavs"
RAY_PORT, MLFLOW_PORT, S3_PORT = 7410, 7420, 7440
NUM_STEPS = 160
"""Of infra/local/multinode.yaml: 40 epochs of 4."""
SHORT_CUT_S = 10.0
FIRST_CUT_AFTER, SECOND_CUT_AFTER = 50, 110
GIVEN_UP = "its node has died"
"""What Ray says of a worker whose machine has not answered for long enough."""


def main() -> int:
    if reason := why_not():
        print(f"skipped: {reason}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # in order, so that nothing is left behind
    with tempfile.TemporaryDirectory(prefix="sdavs-multinode-") as folder, Network() as network:
        site = Site(network, Path(folder))
        try:
            site.start()
            return tell(site)
        finally:
            site.stop()


class Site:
    """Two machines with a place for one worker each; S3 and MLflow here, reached over the bridge."""

    def __init__(self, network: Network, folder: Path) -> None:
        self._folder = folder
        self._network = network
        self.mlflow_uri = f"http://{network.gateway}:{MLFLOW_PORT}"
        self.store = ObjectStore(
            host=network.gateway, port=S3_PORT, key=secrets.token_hex(8), secret=secrets.token_hex(16)
        )
        self._services: list[processes.Service] = []
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "SDAVS_HOME": f"{HOME}/sdavs",
            "AWS_ENDPOINT_URL": self.store.endpoint,
            "MLFLOW_TRACKING_URI": self.mlflow_uri,
            # A machine's name may stand for its loopback address; gloo and NCCL would offer that to each other.
            "GLOO_SOCKET_IFNAME": "eth0",
            "NCCL_SOCKET_IFNAME": "eth0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }

    def start(self) -> None:
        """S3 with the clips, MLflow, and one Ray cluster of both machines."""
        self._services += [self.store.start(self._folder / "s3"), self._start_mlflow()]
        self.head, self.other = self._network.add("one"), self._network.add("two")
        self._join(self.head, f"--head --port {RAY_PORT} --include-dashboard=false")
        self._join(self.other, f"--address {self.head.address}:{RAY_PORT}")
        self.store.wait(self._services[0], folder=self._folder / "s3", buckets=[BUCKET])
        self.run(
            "jobs/prepare_data.py --out ~/clips --num-train 8 --num-val 2 --num-test-new-scenes 1 "
            "--num-test-strict 1 --size 32 --workers 1"
        )
        self.run(f"jobs/prepare_data.py upload ~/clips s3://{BUCKET}/clips")
        while processes.ask(f"{self.mlflow_uri}/health") is None:
            time.sleep(0.3)

    def stop(self) -> None:
        """What does not end with the machines."""
        for service in reversed(self._services):
            service.stop()

    def command(self, line: str) -> list[str]:
        """`python LINE` in the checkout on the first machine."""
        return self.head.command(
            "sh", "-c", f"cd {CHECKOUT}; exec python {line}", environment=self.environment
        )

    def run(self, line: str) -> str:
        """Run `python LINE` to its end.

        Raises:
            RuntimeError: it failed; with what it said.
        """
        ran = subprocess.run(self.command(line), capture_output=True, text=True)
        if ran.returncode:
            raise RuntimeError(f"{line}:\n{ran.stdout}{ran.stderr}")
        return ran.stdout

    def train(self, name: str) -> Followed:
        """Begin a training by the first machine's driver."""
        command = self.command(f"jobs/train.py --config infra/local/multinode.yaml --name {name}")
        return Followed(command, log=self._folder / f"{name}.log")

    def weights(self, name: str) -> str:
        """The SHA-256 of a training's consolidated weights, from its newest checkpoint in the bucket."""
        out = f"{HOME}/{name}"
        self.run(
            f"jobs/export.py --name {name} --checkpoint newest --storage s3://{BUCKET}/results --out {out}"
        )
        return self.head.run("sha256sum", f"{out}/model.safetensors", check=True).stdout.split()[0]

    def steps_told(self, name: str) -> list[int]:
        """The steps whose loss MLflow knows, with repetitions."""
        run = TrainingRun.find(name, storage=f"s3://{BUCKET}/results", uri=self.mlflow_uri)
        assert run
        return sorted(point.step for point in run.client.get_metric_history(run.run_id, "train/loss"))

    def _join(self, machine: Machine, how: str) -> None:
        """Ray on a machine, started anew whenever it ends, as systemd or KubeRay would."""
        keys = f"[default]\naws_access_key_id={self.store.key}\naws_secret_access_key={self.store.secret}\n"
        machine.run("sh", "-c", f"mkdir .aws; echo {shlex.quote(keys)} > .aws/credentials", check=True)
        start = (
            f"ray start --block --disable-usage-stats --node-ip-address {machine.address} {how} "
            f"--num-cpus 1 --object-store-memory 100000000"
        )
        loop = f"cd {CHECKOUT}; while :; do {start}; sleep 2; done"
        processes.start(
            machine.command("sh", "-c", loop, environment=self.environment),
            cwd=CHECKOUT,
            environment={},
            log=self._folder / f"{machine.name}.log",
        )

    def _start_mlflow(self) -> processes.Service:
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            self._network.gateway,
            "--workers",
            "1",
        ]
        command += ["--port", str(MLFLOW_PORT), "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        command += ["--serve-artifacts", "--artifacts-destination", str(self._folder / "artifacts")]
        environment = self.environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        return processes.start(
            command, cwd=self._folder, environment=environment, log=self._folder / "mlflow.log"
        )


def tell(site: Site) -> int:
    """Both trainings, the cuts and the comparison, told as they happen; returns the exit status."""
    say(f"machines {site.head.address} and {site.other.address}, a worker each, ZeRO-2; only S3 in common")
    calm = site.train("calm")
    began = calm.wait_for_step(1)
    calm.finish()
    say(f"undisturbed: {NUM_STEPS} steps in {calm.wait_for_step(NUM_STEPS) - began:.0f} s")

    cut = site.train("cut")
    at = cut_after(FIRST_CUT_AFTER, cut, site)
    time.sleep(SHORT_CUT_S)
    site.other.heal()
    before = cut.newest_step()
    again = cut.wait_for_step(before + 1, since=time.monotonic())
    say(
        f"link cut after step {before}, healed after {SHORT_CUT_S:.0f} s: step {before + 1} came "
        f"{again - at:.0f} s after the cut; nothing was repeated"
    )

    at = cut_after(SECOND_CUT_AFTER, cut, site)
    given_up, _ = cut.wait_for(lambda text: GIVEN_UP in text, since=at)
    before = cut.newest_step()
    site.other.heal()
    resumed = cut.wait_for_resume(since=given_up)
    again = cut.wait_for_step(before + 1, since=given_up)
    say(
        f"link cut after step {before}; Ray gave the machine up after {given_up - at:.0f} s; healed, it went on "
        f"after step {resumed}: {before - resumed} steps were repeated, step {before + 1} came "
        f"{again - given_up:.0f} s after healing"
    )
    cut.finish()

    told = site.steps_told("cut")
    whole = told == list(range(1, NUM_STEPS + 1))
    same = site.weights("calm") == site.weights("cut")
    say(f"MLflow was told of {len(told)} steps, {'each once' if whole else 'NOT each once'}")
    say(f"weights from S3, consolidated: {'bit by bit' if same else 'NOT'} those of the undisturbed training")
    return 0 if same and whole else 1


def cut_after(step: int, training: Followed, site: Site) -> float:
    """Cut the link once the training has told of a step; returns when."""
    training.wait_for_step(step)
    site.other.cut()
    return time.monotonic()


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
