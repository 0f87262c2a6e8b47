"""Running and past trainings and sweeps, put together from MLflow, the jobs of a Ray cluster, and the storage."""

import signal
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import psutil
from mlflow.entities import Run, ViewType

from sdavs_platform.ray_internals import CHECKPOINT_LIST, dashboard_headers
from sdavs_platform.storage.filesystem import Storage
from sdavs_platform.tables import text_table
from sdavs_platform.tracking.client import mlflow_client
from sdavs_platform.tracking.runs import HOST_TAG, NAME_TAG, PROCESS_TAG, STORAGE_TAG, SWEEP_TAG

PARENT_TAG = "mlflow.parentRunId"
TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One training or sweep."""

    name: str
    kind: str
    """training, trial, sweep; or job for a job of the Ray cluster that has no MLflow run."""
    state: str
    """running, finished, failed, killed; lost for a run whose process has ended without recording why."""
    started: str = ""
    """UTC."""
    miou: float | None = None
    """J of the latest validation."""
    version: str | None = None
    """Version of the registered model."""
    error: str | None = None
    run_id: str | None = None
    job: str | None = None
    """Submission id, or id, of the job in the Ray cluster; None if the cluster no longer has it."""
    process: str | None = None
    """HOST:PID of the driver, with the host's name."""
    data_digest: str | None = None
    git_commit: str | None = None
    storage: str | None = None
    """Where its checkpoints are."""


class RayJobs:
    """The REST API of a Ray cluster's jobs.

    https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html

    Args:
        dashboard: address of the Ray dashboard, `http://HOST:PORT`.
    """

    def __init__(self, dashboard: str) -> None:
        self.dashboard = dashboard.rstrip("/")

    def all(self) -> list[dict[str, Any]]:
        """All jobs that the cluster remembers.

        Raises:
            ConnectionError: no dashboard answers.
            ValueError: it refuses; the message says why.
        """
        return self._request("GET", "")

    def stop(self, job: str) -> None:
        """Have the cluster send SIGTERM to a submitted job. Raises as `all`."""
        self._request("POST", f"{job}/stop")

    def logs(self, job: str) -> str:
        """The output of a submitted job so far. Raises as `all`."""
        return self._request("GET", f"{job}/logs")["logs"]

    def _request(self, method: str, path: str) -> Any:
        url = f"{self.dashboard}/api/jobs/{path}"
        try:
            answer = httpx.request(
                method, url, headers=dashboard_headers(), timeout=TIMEOUT_S, trust_env=False
            )
        except httpx.HTTPError as error:
            raise ConnectionError(f"no Ray dashboard responds at {self.dashboard}: {error}") from error
        if not answer.is_success:
            raise ValueError(
                f"Ray dashboard {self.dashboard}: {answer.status_code} {answer.text.strip()[:300]}"
            )
        return answer.json()


def overview(
    *, uri: str, jobs: Sequence[dict[str, Any]], limit: int | None = None, trials: bool = False
) -> list[Entry]:
    """Jobs without a run first, then runs, the newest first.

    Args:
        uri: MLflow.
        jobs: of the Ray cluster, as `RayJobs.all` returns them.
        limit: runs at most; None for all.
        trials: list the trials of sweeps, too.
    """
    client = mlflow_client(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs: list[Run] = []
    token = None
    while limit is None or len(runs) < limit:
        page = client.search_runs(
            experiments,
            run_view_type=ViewType.ACTIVE_ONLY,
            max_results=200,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        runs += [run for run in page if _is_listed(run, trials=trials)]
        token = page.token
        if not token:
            break
    by_process = {_process_of(job): job for job in jobs if job.get("driver_info")}
    entries = [_entry(run, by_process) for run in runs[:limit]]
    known = {entry.job for entry in entries}
    others = [
        Entry(name=job.get("entrypoint") or _id(job), kind="job", state=job["status"].lower(), job=_id(job))
        for job in jobs
        if job["status"] in ("PENDING", "RUNNING") and _id(job) not in known
    ]
    return others + entries


def find(name: str, entries: Sequence[Entry]) -> Entry:
    """The newest entry with this name, or this beginning of a run id, or this job id.

    Raises:
        ValueError: there is none.
    """
    for entry in entries:
        named = name in (entry.name, entry.job)
        if named or (len(name) >= 6 and entry.run_id is not None and entry.run_id.startswith(name)):
            return entry
    raise ValueError(f"no run, sweep or job {name!r}; `jobs/runs.py list --all` shows them")


def table(entries: Sequence[Entry]) -> str:
    """One line an entry."""
    header = ["name", "kind", "state", "started (UTC)", "J", "version", "job"]
    rows = [
        [entry.name[:60], entry.kind, entry.state, entry.started, entry.miou, entry.version, entry.job]
        for entry in entries
    ]
    return text_table(header, rows)


def details(entry: Entry, *, storage: str) -> dict[str, Any]:
    """All that is known of an entry, with its checkpoints in the storage.

    Args:
        storage: where to look for checkpoints if its run does not say.

    Raises:
        ValueError: the storage cannot be reached.
    """
    known = {key: value for key, value in asdict(entry).items() if value not in (None, "")}
    place = entry.storage or storage
    if entry.kind in ("training", "trial"):
        files = Storage(f"{place.rstrip('/')}/{entry.name}", field="--storage").sizes()
        names = sorted(
            {path.split("/")[0] for path in files if path.startswith("checkpoint_") and "/" in path}
        )
        known |= {"storage": place, "checkpoints": names, "resumable": CHECKPOINT_LIST in files}
    return known


def stop(entry: Entry, jobs: RayJobs) -> str:
    """End a training, sweep or job, which then saves a checkpoint; returns what was done.

    Raises:
        ValueError: it does not run, or it runs where it cannot be reached from here.
    """
    if entry.state not in ("running", "pending"):
        raise ValueError(f"{entry.name} is not running; it is {entry.state}")
    if entry.job is not None and not _is_bare(entry.job):
        jobs.stop(entry.job)
        return f"stopping Ray job {entry.job}"
    host, _, number = (entry.process or "").rpartition(":")
    if host == socket.gethostname() and (process := _job_process(int(number))):
        process.send_signal(signal.SIGTERM)
        return f"stopping process {number}"
    where = f"process {number} on {host}" if number else "an unknown process"
    raise ValueError(f"{entry.name} is {where}, not a submitted job; end it there")


def logs(entry: Entry, jobs: RayJobs) -> str:
    """The output of a submitted job.

    Raises:
        ValueError: it was not submitted to this cluster.
    """
    if entry.job is None or _is_bare(entry.job):
        raise ValueError(
            f"{entry.name} is not a submitted job of the cluster at {jobs.dashboard}; only their output is kept"
        )
    return jobs.logs(entry.job)


def _is_listed(run: Run, *, trials: bool) -> bool:
    tags = run.data.tags
    return (NAME_TAG in tags or SWEEP_TAG in tags) and (trials or PARENT_TAG not in tags)


def _entry(run: Run, by_process: dict[str, dict[str, Any]]) -> Entry:
    tags = run.data.tags
    process = tags.get(PROCESS_TAG)
    job = by_process.get(process or "")
    number = process.rpartition(":")[2] if process else ""
    state = run.info.status.lower()
    here = tags.get(HOST_TAG) == socket.gethostname()
    if state == "running" and here and number and _job_process(int(number)) is None:
        state = "lost"
    kind = "training" if PARENT_TAG not in tags else "trial"
    return Entry(
        name=tags.get(NAME_TAG) or tags[SWEEP_TAG],
        kind=kind if NAME_TAG in tags else "sweep",
        state=state,
        started=datetime.fromtimestamp(run.info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
        miou=run.data.metrics.get("val/miou"),
        version=tags.get("model_version"),
        error=tags.get("error"),
        run_id=run.info.run_id,
        job=_id(job) if job else None,
        process=f"{tags[HOST_TAG]}:{number}" if number else None,
        data_digest=tags.get("data_digest"),
        git_commit=tags.get("git_commit"),
        storage=tags.get(STORAGE_TAG),
    )


def _job_process(number: int) -> psutil.Process | None:
    """The process, if it still is one of `jobs/`: numbers are reused."""
    try:
        process = psutil.Process(number)
        is_job = any(word.endswith(("train.py", "tune.py")) for word in process.cmdline())
        return process if is_job and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _process_of(job: dict[str, Any]) -> str:
    return f"{job['driver_info']['node_ip_address']}:{job['driver_info']['pid']}"


def _id(job: dict[str, Any]) -> str:
    return job.get("submission_id") or job["job_id"]


def _is_bare(job: str) -> bool:
    """Whether it is a driver that joined the cluster by itself: Ray numbers those."""
    return len(job) == 8 and all(letter in "0123456789abcdef" for letter in job)
