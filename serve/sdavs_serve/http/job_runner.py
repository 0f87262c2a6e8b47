"""Processes jobs in the background of an ingress replica."""

import asyncio
import contextlib
import functools
import logging
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import IO

from sdavs_platform.config.serve import ServeConfig

from sdavs_serve import tracing
from sdavs_serve.decoding.sandboxed_decoders import Sandbox, Upload
from sdavs_serve.encoding.responses import SegmentedFrame, Writer
from sdavs_serve.errors import RequestError
from sdavs_serve.http.form import SegmentForm
from sdavs_serve.http.job_table import Job, JobTable
from sdavs_serve.http.problems import problem_of
from sdavs_serve.http.segmenter import Segmenter
from sdavs_serve.schema import ENDED_JOB, AnswerHead, Timeline, Timings

logger = logging.getLogger("ray.serve")

POLL_S = 2.0
BEAT_S = 5.0
"""How often a replica reports that it works at a job, and sees whether the job was cancelled."""

LOST_S = 30.0
"""A job without a report for so long is taken up by another replica, from its beginning."""

MAX_ATTEMPTS = 3
"""How often a job is taken up; then it has failed."""

PASSING = (429, 503, 504)
"""Statuses of errors after which a job is tried again."""


class ManyWriters:
    """A writer that writes several bodies at once: one decoding and one inference for all of them."""

    def __init__(self, writers: list[Writer]) -> None:
        self._writers = writers
        self.media_type = writers[0].media_type
        self.draws = any(writer.draws for writer in writers)
        self.bodies: dict[str, IO[bytes]] = {}

    def add(self, frame: SegmentedFrame) -> None:
        """Add the next frame to all."""
        for writer in self._writers:
            writer.add(frame)

    def finish(self, timings: Timings, timeline: Timeline | None = None) -> IO[bytes]:
        """The first body; all are in `bodies`."""
        self.bodies = {writer.media_type: writer.finish(timings, timeline) for writer in self._writers}
        return self.bodies[self.media_type]


class JobRunner:
    """Takes up jobs of the table, a few at once."""

    def __init__(
        self,
        *,
        config: ServeConfig,
        table: JobTable,
        segmenter: Segmenter,
        sandbox: Sandbox,
        notify: Callable[[Job], Awaitable[None]],
        on_ended: Callable[[Job], None] = lambda job: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            config: the endpoint's config.
            table: the jobs.
            segmenter: segments uploads.
            sandbox: decodes their sound for overlay videos.
            notify: calls the webhook of a job that has ended.
            on_ended: called with each job that this replica has ended.
            clock: Unix time.
        """
        self._config = config
        self._table = table
        self._segmenter = segmenter
        self._sandbox = sandbox
        self._notify = notify
        self._on_ended = on_ended
        self._clock = clock
        self._name = uuid.uuid4().hex
        self._running: dict[str, asyncio.Task[None]] = {}
        self._notifying: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._ended: dict[str, Job] = {}
        """Jobs that have ended: their records stay as they are and are read once."""
        self.num_waiting = 0
        """Jobs that no replica is processing, when the table was last read."""
        self.num_kept: Counter[str] = Counter()
        """Jobs by the id of the key that sent them, also those that have ended; as of then."""

    def wake(self, job: Job) -> None:
        """There is a new job."""
        self.num_waiting += 1
        self.num_kept[job.owner] += 1
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                self._wake.clear()
                try:
                    await self.look()
                except Exception:
                    logger.exception("cannot read the jobs; retrying")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), POLL_S)
        finally:
            for task in (*self._running.values(), *self._notifying):
                task.cancel()

    async def look(self) -> None:
        """Read the table once: remove what has expired, take up what waits."""
        ids = await asyncio.to_thread(self._table.ids)
        self._ended = {job_id: job for job_id, job in self._ended.items() if job_id in ids}
        jobs, now = await asyncio.to_thread(self._table.jobs, ids - self._ended.keys()), self._clock()
        self._ended |= {job.id: job for job in jobs if job.state in ENDED_JOB}
        known = {job.id: job for job in jobs} | self._ended
        self.num_kept = Counter(job.owner for job in known.values())
        for job in known.values():
            if now >= job.expires and (job.state in ENDED_JOB or self._is_free(job)):
                await asyncio.to_thread(self._table.remove, job)
        waiting = [job for job in jobs if self._is_free(job) and now < job.expires]
        self.num_waiting = len(waiting)
        waiting = in_turns(waiting, known.values())
        for job in waiting[: self._config.jobs.at_once - len(self._running)]:
            claimed = await asyncio.to_thread(self._table.change, job.id, self._claim)
            if claimed:
                self.num_waiting -= 1
                task = asyncio.create_task(self._work(claimed))
                self._running[job.id] = task
                task.add_done_callback(functools.partial(self._forget, job.id))

    async def join(self) -> None:
        """Wait for the jobs that run now, and for their webhooks."""
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        await asyncio.gather(*self._notifying, return_exceptions=True)

    def _forget(self, job_id: str, _: asyncio.Task[None]) -> None:
        del self._running[job_id]
        self._wake.set()

    def _is_free(self, job: Job) -> bool:
        return job.state == "queued" or (job.state == "running" and self._clock() - job.beat > LOST_S)

    def _claim(self, job: Job) -> Job | None:
        if not self._is_free(job):
            return None
        now = self._clock()
        taken = {"state": "running", "holder": self._name, "started": now, "beat": now, "num_frames": 0}
        return job.model_copy(update={**taken, "attempts": job.attempts + 1})

    async def _work(self, job: Job) -> None:
        frames = [0]
        work = asyncio.create_task(self._segment(job, on_frames=lambda count: frames.__setitem__(0, count)))
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=BEAT_S)
                if not work.done() and not await self._report(job, num_frames=frames[0]):
                    logger.info("job %s was cancelled, or taken over by another replica", job.id)
                    return
            await self._end(job, await work)
        except RequestError as error:
            await self._fail(job, error)
        except Exception:
            logger.exception("job %s failed", job.id)
            detail = "internal error of the endpoint; it has been logged"
            await self._fail(job, RequestError(status=500, kind="internal", detail=detail))
        finally:
            work.cancel()

    async def _segment(self, job: Job, *, on_frames: Callable[[int], None]) -> dict:
        """Make and store the results; returns the fields of the record that follow from them."""
        if job.attempts > MAX_ATTEMPTS:
            detail = f"the replicas that worked at it were lost {MAX_ATTEMPTS} times"
            raise RequestError(status=500, kind="internal", detail=detail)
        upload = await asyncio.to_thread(self._table.upload, job)
        form = SegmentForm(frame=job.frame, overlay=job.overlay)
        writer: ManyWriters | None = None

        def new_writer(head: AnswerHead, classes: list[str]) -> Writer:
            nonlocal writer
            writer = ManyWriters(
                [form.new_writer(kind, upload, self._sandbox)(head, classes) for kind in job.accept]
            )
            return writer

        with contextlib.closing(upload.file), tracing.span("job", sdavs_job=job.id):
            made = await self._segmenter.segment(
                upload,
                new_writer,
                pinned=job.pinned,
                timeout_s=self._config.jobs.timeout_s,
                on_frames=on_frames,
            )
        assert writer
        for number, body in enumerate(writer.bodies.values()):
            with body:
                await asyncio.to_thread(self._table.save_result, job.id, number, body)
        return {
            "state": "done",
            "results": tuple(writer.bodies),
            "num_frames": made.num_frames,
            "model_version": str(made.version),
        }

    async def _report(self, job: Job, *, num_frames: int) -> bool:
        """Report that the job is being processed; False if it is no longer ours."""
        changes = {"beat": self._clock(), "num_frames": num_frames}
        return await self._change(job, changes) is not None

    async def _fail(self, job: Job, error: RequestError) -> None:
        if error.status in PASSING and job.attempts < MAX_ATTEMPTS:
            logger.info("job %s is queued again: %s", job.id, error)
            await self._change(job, {"state": "queued"})
            return
        await self._end(job, {"state": "failed", "problem": problem_of(error)})

    async def _end(self, job: Job, changes: dict) -> None:
        now = self._clock()
        ended = await self._change(job, {**changes, "ended": now, "expires": now + self._config.jobs.keep_s})
        if ended is None:
            if await asyncio.to_thread(self._table.get, job.id) is None:
                # Removed while its results were being stored.
                await asyncio.to_thread(self._table.remove, job)
            return
        await asyncio.to_thread(self._table.drop_upload, job.id)
        self._on_ended(ended)
        if ended.webhook:
            # Not here: a slow receiver would hold up the next job.
            task = asyncio.create_task(self._call_webhook(ended))
            self._notifying.add(task)
            task.add_done_callback(self._notifying.discard)

    async def _call_webhook(self, job: Job) -> None:
        try:
            await self._notify(job)
        except Exception:
            logger.exception("the webhook of job %s failed", job.id)

    async def _change(self, job: Job, changes: dict) -> Job | None:
        def make(current: Job) -> Job | None:
            ours = current.state == "running" and current.holder == self._name
            return current.model_copy(update=changes) if ours else None

        return await asyncio.to_thread(self._table.change, job.id, make)


def in_turns(waiting: Iterable[Job], known: Iterable[Job]) -> list[Job]:
    """Waiting jobs in the order in which they are taken up: each key's oldest first, the key first that had none taken
    up for longest. A key with a hundred jobs does not hold up the others.

    Args:
        waiting: the oldest first.
        known: all jobs, with `started`.
    """
    last: dict[str, float] = {}
    for job in known:
        last[job.owner] = max(last.get(job.owner, 0.0), job.started or 0.0)
    ranks: Counter[str] = Counter()
    keyed = []
    for job in waiting:
        keyed.append(((ranks[job.owner], last.get(job.owner, 0.0), job.created), job))
        ranks[job.owner] += 1
    return [job for _, job in sorted(keyed, key=lambda entry: entry[0])]


def expiry(config: ServeConfig, now: float) -> float:
    """When a job that was sent now is removed at the latest: also one that never ends."""
    return now + MAX_ATTEMPTS * config.jobs.timeout_s + config.jobs.keep_s


def parts_of(upload: Upload) -> dict:
    """The fields of a record that describe its upload."""
    return {"kind": upload.kind, "parts": upload.parts, "fps": upload.fps, "threshold": upload.threshold}
