"""A training on two machines whose link is cut twice and healed (`make multinode-test`; needs root).

    .venv/bin/python infra/local/multinode.py

The machines (see `machines`) share a network and nothing else: data, checkpoints and weights go through an S3 server,
also the pretrained weights that only the first one has.
The first cut is short; the second lasts until Ray declares the machine dead. Afterwards the weights must equal those of
an undisturbed training bit by bit, and MLflow must have every step once.
"""

import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from followed import Followed
from machines import HOME, Machine, Network, why_not
from sdavs_platform.local import processes
from sdavs_platform.local.object_store import ObjectStore
from sdavs_platform.tracking.runs import TrainingRun

CHECKOUT = Path(__file__).resolve().parents[2]
BUCKET = "sdavs"
WEIGHTS = f"{HOME}/backbone.safetensors"
"""The pretrained backbone of the trainings."""
RAY_PORT, MLFLOW_PORT, S3_PORT = 7410, 7420, 7440
NUM_STEPS = 160
"""Steps of infra/local/multinode.yaml: 40 epochs of 4."""
SHORT_CUT_S = 10.0
FIRST_CUT_AFTER, SECOND_CUT_AFTER = 50, 110
GIVEN_UP = "its node has died"
"""What Ray logs about a worker whose machine has not responded for long enough."""


def main() -> int:
    if reason := why_not():
        print(f"skipped: {reason}")
        return 0
    with running_site(Network(), prefix="sdavs-multinode-") as site:
        return cut_twice(site)


@contextmanager
def running_site(network: Network, *, prefix: str) -> Iterator["Site"]:
    """Start the machines and their services; everything is stopped and removed at the end, also on SIGTERM.

    Args:
        prefix: first part of the name of the temporary folder.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix=prefix) as folder, network:
        site = Site(network, Path(folder))
        try:
            site.start()
            yield site
        finally:
            site.stop()


class Site:
    """Two machines with a resource slot for one worker each; S3 and MLflow run here, reached over the bridge."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.folder = folder
        """Holds the logs, and the data of S3 and MLflow."""
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
            # A machine's name may resolve to its loopback address, which gloo and NCCL would announce to each other.
            "GLOO_SOCKET_IFNAME": "eth0",
            "NCCL_SOCKET_IFNAME": "eth0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray lets its workers run after all other programs, which here share the cores with two machines.
            "RAY_worker_niceness": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }

    def start(self) -> None:
        """Start S3 with the clips, MLflow, and one Ray cluster of both machines."""
        self._services += [self.store.start(self.folder / "s3"), self._start_mlflow()]
        self.head, self.other = self._network.add("one"), self._network.add("two")
        self._join(self.head, f"--head --port {RAY_PORT} --include-dashboard=false")
        self._join(self.other, f"--address {self.head.address}:{RAY_PORT}")
        self.store.wait(self._services[0], folder=self.folder / "s3", buckets=[BUCKET])
        self.run(
            "jobs/prepare_data.py --out ~/clips --num-train 8 --num-val 2 --num-test-new-scenes 1 "
            "--num-test-strict 1 --size 32 --workers 1"
        )
        self.run(f"jobs/prepare_data.py upload ~/clips s3://{BUCKET}/clips")
        # Made up, and only on the first machine; the second one gets them by way of S3.
        self.run(
            "-c 'import timm, safetensors.torch; "
            'weights = timm.create_model("test_resnet").state_dict(); '
            f'safetensors.torch.save_file(weights, "{WEIGHTS}")\''
        )
        while processes.ask(f"{self.mlflow_uri}/health") is None:
            time.sleep(0.3)

    def stop(self) -> None:
        """Stop what does not end with the machines."""
        for service in reversed(self._services):
            service.stop()

    def command(self, line: str) -> list[str]:
        """The command that runs `python LINE` in the checkout on the first machine."""
        return self.head.command(
            "sh", "-c", f"cd {CHECKOUT}; exec python {line}", environment=self.environment
        )

    def run(self, line: str) -> str:
        """Run `python LINE` until it ends; returns its standard output.

        Raises:
            RuntimeError: it failed; with its output.
        """
        ran = subprocess.run(self.command(line), capture_output=True, text=True)
        if ran.returncode:
            raise RuntimeError(f"{line}:\n{ran.stdout}{ran.stderr}")
        return ran.stdout

    def train(self, name: str) -> Followed:
        """Start a training, with its driver on the first machine."""
        command = self.command(
            f"jobs/train.py --config infra/local/multinode.yaml --name {name} --model.backbone_weights {WEIGHTS}"
        )
        return Followed(command, log=self.folder / f"{name}.log")

    def weights(self, name: str) -> str:
        """The SHA-256 of a training's consolidated weights, from its newest checkpoint in the bucket."""
        out = f"{HOME}/{name}"
        self.run(
            f"jobs/export.py --name {name} --checkpoint newest --storage s3://{BUCKET}/results --out {out}"
        )
        return self.head.run("sha256sum", f"{out}/model.safetensors", check=True).stdout.split()[0]

    def logged_steps(self, name: str) -> list[int]:
        """The steps whose loss is in MLflow, with repetitions."""
        run = TrainingRun.find(name, storage=f"s3://{BUCKET}/results", uri=self.mlflow_uri)
        assert run
        return sorted(point.step for point in run.client.get_metric_history(run.run_id, "train/loss"))

    def _join(self, machine: Machine, how: str) -> None:
        """Run Ray on a machine, restarted whenever it ends, as systemd or KubeRay would."""
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
            log=self.folder / f"{machine.name}.log",
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
        command += ["--port", str(MLFLOW_PORT), "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--serve-artifacts", "--artifacts-destination", str(self.folder / "artifacts")]
        environment = self.environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        return processes.start(
            command, cwd=self.folder, environment=environment, log=self.folder / "mlflow.log"
        )


def cut_twice(site: Site) -> int:
    """Run both trainings, the cuts and the comparison; returns the exit status."""
    report(
        f"machines {site.head.address} and {site.other.address}, a worker each, ZeRO-2; they share S3 only"
    )
    calm = site.train("calm")
    began = calm.wait_for_step(1)
    calm.finish()
    report(f"undisturbed: {NUM_STEPS} steps in {calm.wait_for_step(NUM_STEPS) - began:.0f} s")

    cut = site.train("cut")
    at = cut_after(FIRST_CUT_AFTER, cut, site)
    time.sleep(SHORT_CUT_S)
    site.other.heal()
    before = cut.newest_step()
    again = cut.wait_for_step(before + 1, since=time.monotonic())
    report(
        f"link cut after step {before}, healed after {SHORT_CUT_S:.0f} s: step {before + 1} came "
        f"{again - at:.0f} s after the cut; nothing was repeated"
    )

    at = cut_after(SECOND_CUT_AFTER, cut, site)
    given_up, _ = cut.wait_for(lambda text: GIVEN_UP in text, since=at)
    before = cut.newest_step()
    site.other.heal()
    resumed = cut.wait_for_resume(since=given_up)
    again = cut.wait_for_step(before + 1, since=given_up)
    report(
        f"link cut after step {before}; Ray declared the machine dead after {given_up - at:.0f} s; after healing the "
        f"training resumed after step {resumed}: {before - resumed} steps were repeated, step {before + 1} came "
        f"{again - given_up:.0f} s after healing"
    )
    cut.finish()

    logged = site.logged_steps("cut")
    whole = logged == list(range(1, NUM_STEPS + 1))
    same = site.weights("calm") == site.weights("cut")
    report(f"MLflow has {len(logged)} steps, {'each once' if whole else 'NOT each once'}")
    report(
        f"consolidated weights from S3: {'equal' if same else 'NOT equal'} to those of the undisturbed training"
    )
    return 0 if same and whole else 1


def cut_after(step: int, training: Followed, site: Site) -> float:
    """Cut the link once the training has logged a step; returns when."""
    training.wait_for_step(step)
    site.other.cut()
    return time.monotonic()


def report(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
