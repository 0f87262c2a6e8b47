"""Jobs as files on the storage: they survive every process, and any ingress replica may process them.

Of a job there are `ID.json` (its record), `ID.upload` until it has ended, and `ID.result-N`. Records are changed by
compare-and-write, so of two replicas that want a job one gets it.
"""

import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable
from typing import IO

from pydantic import ValidationError
from sdavs_platform.storage.filesystem import Storage

from sdavs_serve.decoding.sandboxed_decoders import Upload, UploadKind
from sdavs_serve.schema import JobStatus

logger = logging.getLogger("ray.serve")


class Job(JobStatus):
    """The record of a job: its state, the request, and the replica that processes it."""

    owner: str
    """Id of the API key that sent it; empty without keys."""
    accept: tuple[str, ...]
    pinned: int | None = None
    webhook: str | None = None
    kind: UploadKind
    parts: list[tuple[int, int]]
    fps: float
    threshold: float
    frame: int
    overlay: bool
    holder: str = ""
    """The replica that works at it."""
    beat: float = 0.0
    """When the holder last reported."""
    attempts: int = 0

    @property
    def status(self) -> JobStatus:
        """What its client sees."""
        return JobStatus.model_validate(self.model_dump(include=set(JobStatus.model_fields)))


class JobTable:
    """All jobs of an endpoint. Every method is blocking, and raises ValueError if the storage cannot be reached."""

    def __init__(self, storage: Storage) -> None:
        """
        Args:
            storage: where the jobs are; shared by all ingress replicas.
        """
        self._storage = storage
        self._unreadable: set[str] = set()

    @staticmethod
    def new_id() -> str:
        """An id that cannot be guessed."""
        return uuid.uuid4().hex

    def add(self, job: Job, upload: IO[bytes]) -> None:
        """Store a new job with its upload."""
        upload.seek(0)
        self._storage.write_from(f"{job.id}.upload", upload)
        self._storage.write(f"{job.id}.json", job.model_dump_json().encode())

    def get(self, job_id: str) -> Job | None:
        """The record of a job; None if there is none."""
        content = self._storage.read(f"{job_id}.json")
        return None if content is None else Job.model_validate_json(content)

    def ids(self) -> set[str]:
        """The ids of all jobs."""
        return {path.removesuffix(".json") for path in self._storage.sizes() if path.endswith(".json")}

    def jobs(self, ids: Iterable[str]) -> list[Job]:
        """The jobs of these ids that are still there, the oldest first.

        A record that cannot be read, such as one of a newer version, is logged and left out. It does not stop others.
        """
        found = []
        for job_id in ids:
            try:
                job = self.get(job_id)
            except ValidationError as error:
                if job_id not in self._unreadable:
                    logger.error("%s.json is not a job record: %s", job_id, error)
                self._unreadable.add(job_id)
                continue
            if job:
                found.append(job)
        return sorted(found, key=lambda job: job.created)

    def change(self, job_id: str, make: Callable[[Job], Job | None]) -> Job | None:
        """Change a record; returns what was written, or None if the job was deleted or `make` returns None."""
        while (content := self._storage.read(f"{job_id}.json")) is not None:
            changed = make(Job.model_validate_json(content))
            if changed is None:
                return None
            if self._storage.replace(f"{job_id}.json", changed.model_dump_json().encode(), expected=content):
                return changed
        return None

    def upload(self, job: Job) -> Upload:
        """The upload of a job, in a separate file."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the upload
        with self._storage.open(f"{job.id}.upload") as stored:
            shutil.copyfileobj(stored, file)
        file.flush()
        return Upload(file=file, kind=job.kind, parts=job.parts, fps=job.fps, threshold=job.threshold)

    def save_result(self, job_id: str, number: int, body: IO[bytes]) -> None:
        """Store a result, by its position in `Job.results`."""
        body.seek(0)
        self._storage.write_from(f"{job_id}.result-{number}", body)

    def result(self, job_id: str, number: int) -> IO[bytes]:
        """A result to read."""
        return self._storage.open(f"{job_id}.result-{number}")

    def drop_upload(self, job_id: str) -> None:
        """Remove the upload of a job that has ended."""
        self._storage.delete(f"{job_id}.upload")

    def remove(self, job: Job) -> None:
        """Remove a job with everything that belongs to it.

        Also results that were stored before it was cancelled, or failed; its record does not name them.
        """
        results = [f"{job.id}.result-{number}" for number in range(len(job.accept))]
        for path in (f"{job.id}.upload", *results, f".{job.id}.json.lock", f"{job.id}.json"):
            self._storage.delete(path)
