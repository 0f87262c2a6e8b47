"""One Ray with Serve, one MLflow server and one endpoint for all tests of serving, in processes of their own."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import torch
from cryptography.fernet import Fernet
from databases import mlflow_database
from prometheus_client.parser import text_string_to_metric_families
from ray._raylet import GcsClient
from running import kill_family
from sdavs_platform.config.serve import RolloutConfig
from sdavs_platform.config.tree import ServeConfig
from sdavs_platform.local import ray_head
from sdavs_platform.local import stack as local
from sdavs_platform.ray_internals import NAMESPACE
from sdavs_platform.tracking.client import experiment_id, mlflow_client
from sdavs_platform.tracking.registry import promote, register_artifact
from sdavs_serve.deployment import deploy, wait_ready
from sdavs_serve.encoding.responses import decode_rle
from sdavs_serve.http.keys import SCOPES, KeyFile
from sdavs_serve.rollout import store
from sdavs_serve.rollout.state import RolloutState
from sdavs_serve.schema import Rle
from waiting import patience, wait_until
from worker_forks import ray_command

from sdavs_model import SDAVS, SDAVSConfig, build_model, config_from_dict, save_artifact
from sdavs_model.architectures.ddeseg.config import DDESegConfig
from sdavs_model.architectures.tpavi.config import TPAVIConfig
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.golden import record_golden

SMALL = SDAVSConfig(
    backbone="pvt_v2_b0", image_size=64, num_frames=5, width=32, num_heads=4, vggish_width=0.125
)
SMALL_TPAVI = TPAVIConfig(backbone="pvt_v2_b0", image_size=64, width=16, vggish_width=0.125)
SMALL_DDESEG = DDESegConfig(
    backbone="pvt_v2_b0",
    image_size=64,
    audio_encoder="vggish",
    vggish_width=0.125,
    bank_classes=("bell", "cat", "dog"),
    num_nearest=2,
    token_width=8,
    head_width=16,
)
SMALL_OF = {"sdavs": SMALL, "tpavi": SMALL_TPAVI, "ddeseg": SMALL_DDESEG}

SEED = 3
"""Of the usual model. It marks a part of photographs, too, and another part with another sound."""

MARKED = 0.85
"""Random models of different architectures mark different pixels. One that marks so many differs from one that marks
everything by half of what QUICK allows, and still has pixels that it does not mark."""

QUICK = RolloutConfig(
    poll_s=0.3,
    shadow_share=1.0,
    canary_weights=(0.5,),
    step_seconds=0.2,
    step_samples=6,
    probe_after_s=0.3,
    bake_s=2.0,
    # A busy machine of two cores makes small models jump; the slow model of the tests is slower than this.
    max_latency_ratio=4.0,
    latency_slack_ms=patience(200.0),
    max_disagreement=0.3,
    load_timeout_s=patience(120.0),
    call_timeout_s=patience(20.0),
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def mask_of(frame: dict) -> np.ndarray:
    return decode_rle(Rle(**frame["rle"]))


class Stack:
    """What the tests need to know about the endpoint, its registry and its processes."""

    def __init__(self, folder: Path, **changes: object) -> None:
        self.folder = folder
        self.changes = changes
        self.client = mlflow_client("sqlite://")
        self.uri = self.dashboard = self.address = ""
        self.gcs: GcsClient | None = None
        self.head = 0
        self.config = ServeConfig()
        self.keys = KeyFile(folder / "keys.json")
        self.keys_by_scope = {scope: self.keys.add(scope) for scope in SCOPES}
        self.webhook_secret = secrets.token_urlsafe()

    @property
    def admin(self) -> dict[str, str]:
        """The header that opens everything."""
        return {"Authorization": f"Bearer {self.keys_by_scope['admin']}"}

    def start(self) -> None:
        """Ray and MLflow, as `make demo` starts them, and an endpoint for other machines, too, with a first model."""
        mlflow_database(self.folder)
        ports = local.Ports(ray=free_port(), dashboard=free_port(), mlflow=free_port())
        up = local.up(ports=ports, home=self.folder)
        self.gcs = GcsClient(address=up.ray.gcs_address)
        self.head = up.ray.service.pid
        self.uri, self.dashboard = up.mlflow.uri, up.ray.dashboard
        self.client = mlflow_client(self.uri)
        secret = self.folder / "webhook-secret"
        secret.write_text(self.webhook_secret)
        self.config = ServeConfig(
            tracking_uri=self.uri,
            host="0.0.0.0",
            keys_file=str(self.keys.path),
            webhook_secret_file=str(secret),
            port=free_port(),
            max_seconds=5,
            max_frames=20,
            max_upload_mb=1,
            max_requests=4,
            max_batch_frames=8,
            reuse_mb=0,  # the tests send the same clip again and again
            # A replica that hangs is killed. If it were asked to finish its requests, it would stay for this long.
            timeout_s=patience(900),
            rollout=QUICK,
        ).model_copy(update=self.changes)
        nudge = f"http://127.0.0.1:{self.config.port}/v1/rollout/nudge"
        events = ["model_version_alias.created"]
        self.client.create_webhook("rollout", nudge, events, secret=self.webhook_secret)
        promote("sdavs", self.register(), uri=self.uri)
        self.address = deploy(self.config, dashboard=self.dashboard)
        key = self.keys_by_scope["admin"]
        wait_ready(
            self.address,
            self.config,
            dashboard=self.dashboard,
            api_key=key,
            timeout_s=patience(900),
        )

    def register(
        self,
        seed: int = SEED,
        *,
        marked: float = MARKED,
        shift: float = 0.0,
        semantic: bool = False,
        architecture: str = "sdavs",
        spoil: Callable[[Path], None] = lambda folder: None,
        **changes: object,
    ) -> int:
        """A model of random weights as the next version of `sdavs`; the same seed agrees with itself.

        Args:
            architecture: "sdavs", "tpavi" or "ddeseg".
            marked: fraction of the drawn clip's pixels that it marks; random weights alone would find all or nothing.
            shift: added to every logit; 50 marks everything, -50 nothing.
            semantic: it calls the surest tenth of them "b" and the others "a".
            spoil: changes the artifact's folder before it is registered.
        """
        torch.manual_seed(seed)
        config = config_from_dict(SMALL_OF[architecture].to_dict() | changes)
        artifact = Path(tempfile.mkdtemp(dir=self.folder, prefix=f"artifact-{seed}-"))
        lineage = {"data_digest": f"digest-{seed}"}
        model = build_model(config).eval()
        drawn = record_golden(model, Preprocessor(config.preprocess)).logits
        with torch.no_grad():
            last = model.decoder.fc if architecture == "sdavs" else model.head.classify
            last.bias += shift - drawn.quantile(1 - marked)
        classes = ["background", "sounding object"]
        if semantic:
            model = _semantic(model, surest=drawn.quantile(1 - marked / 10) - drawn.quantile(1 - marked))
            config, classes = model.config, ["background", "a", "b"]
        save_artifact(artifact, model=model, classes=classes, metrics={}, lineage=lineage)
        spoil(artifact)
        run = self.client.create_run(experiment_id(self.client, "test")).info.run_id
        return register_artifact(artifact, name="sdavs", config=config, run_id=run, tags={}, uri=self.uri)

    def promote(self, version: int) -> None:
        """What a click in the MLflow UI does."""
        self.client.set_registered_model_alias("sdavs", "champion", str(version))

    def state(self) -> RolloutState:
        answer = httpx.get(f"{self.address}/v1/rollout", headers=self.admin, timeout=patience(30))
        return RolloutState.model_validate_json(answer.content)

    def document(self) -> RolloutState:
        """The rollout's document itself; `state` is what the ingress knew of it a moment ago."""
        keys = self.gcs.internal_kv_keys(store.STATE.encode(), NAMESPACE)
        content = self.gcs.internal_kv_get(max(keys), NAMESPACE)
        return RolloutState.model_validate_json(content) if content else self.document()

    def serving(self) -> int | None:
        served = self.state().served
        return served.version if served else None

    def until(self, what: Callable[[RolloutState], bool], *, seconds: float = 90.0) -> RolloutState:
        """The first document that `what` holds for."""

        def found() -> RolloutState | None:
            state = self.state()
            return state if what(state) else None

        return wait_until(
            found,
            what="a state of the rollout",
            seconds=seconds,
            details=lambda: self.state().model_dump_json(indent=1),
        )

    def tags(self, version: int) -> dict[str, str]:
        return self.client.get_model_version("sdavs", str(version)).tags

    def post(
        self,
        data: dict | None = None,
        accept: str = "application/json",
        headers: dict | None = None,
        timeout_s: float = 90.0,
        files: list | None = None,
        **named: object,
    ) -> httpx.Response:
        return httpx.post(
            f"{self.address}/v1/segment",
            files=files or named,
            data=data or {},
            headers={"Accept": accept} | self.admin | (headers or {}),
            timeout=patience(timeout_s),
        )

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that bear these labels."""
        text = httpx.get(f"{self.address}/metrics", headers=self.admin, timeout=patience(30)).text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def processes(self, deployment: str) -> list[int]:
        """Process numbers of a deployment's replicas, also of those that Serve does not know of yet."""
        title = f"ray::ServeReplica:sdavs:{deployment}"
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                # Joined: a process that has just ended has no words.
                if " ".join(process.cmdline()).startswith(title) and self._logs_here(process.pid):
                    found.append(process.pid)
        return found

    def _logs_here(self, process: int) -> bool:
        """Whether it belongs to this Ray: forked workers are no children of its head."""
        return Path(f"/proc/{process}/fd/1").readlink().is_relative_to(self.folder)


def _semantic(binary: SDAVS, *, surest: torch.Tensor) -> SDAVS:
    """[background, a, b] in place of one mask: its own logit for a, twice that less `surest` for b."""
    model = build_model(SDAVSConfig.from_dict(binary.config.to_dict() | {"num_classes": 3})).eval()
    weights = binary.state_dict()
    for name, offset in (("weight", 0.0), ("bias", surest)):
        one = weights[f"decoder.fc.{name}"]
        weights[f"decoder.fc.{name}"] = torch.cat([torch.zeros_like(one), one, 2 * one - offset])
    model.load_state_dict(weights)
    return model


def kill(processes: list[int], how: signal.Signals = signal.SIGKILL) -> None:
    """The kind of end that nobody can prepare for; with SIGSTOP, the processes hang instead."""
    for number in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, how)


@contextmanager
def running_stack(**changes: object) -> Iterator[Stack]:
    """Everything up, with `changes` of the endpoint's config, and down again."""
    # Not pytest's folder: Ray's sockets need a short path.
    folder = Path(tempfile.mkdtemp(prefix="rs-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDAVS_HOME", str(folder))
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        # MLflow calls only https and public addresses unless configured otherwise.
        patch.setenv("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http,https")
        patch.setenv("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true")
        patch.setenv("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", Fernet.generate_key().decode())
        for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            patch.delenv(name, raising=False)
        patch.setattr(ray_head, "_executable", lambda name: ray_command(folder))
        made = Stack(folder, **changes)
        try:
            made.start()
            yield made
        finally:
            # Nothing is to be saved, so Ray need not take its time; how it is asked to end is tested elsewhere.
            if made.head:
                kill_family(made.head)
            local.down(home=folder)
            shutil.rmtree(folder, ignore_errors=True)
