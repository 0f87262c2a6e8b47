"""The routes of jobs: clips that are sent now and whose results are fetched later."""

import asyncio
import re
import time
from collections.abc import Iterator
from typing import IO, Annotated, Any

from fastapi import APIRouter, Form, Header, Request, Response
from fastapi.responses import StreamingResponse
from sdavs_platform.config.serve import ServeConfig

from sdavs_serve.errors import RequestError
from sdavs_serve.http.auth import JOBS, KEY_OF_REQUEST, SCOPE_OF_REQUEST
from sdavs_serve.http.form import JOB_TYPES, SegmentForm, media_range, negotiate
from sdavs_serve.http.job_runner import JobRunner, expiry, parts_of
from sdavs_serve.http.job_table import Job, JobTable
from sdavs_serve.http.job_webhook import check_address
from sdavs_serve.schema import ENDED_JOB, JobStatus

PIECE = 1 << 20


class JobForm(SegmentForm):
    """The form of POST /v1/jobs: that of POST /v1/segment, and `webhook`."""

    webhook: str | None = None
    """Address that is sent the job's status when it has ended; its host must be one of `serve.jobs.webhook_hosts`."""


def add_jobs(
    router: APIRouter,
    *,
    config: ServeConfig,
    table: JobTable,
    runner: JobRunner,
    responses: dict[str, dict[int | str, dict[str, Any]]],
    dependencies: list[Any],
) -> None:
    """Add the routes.

    Args:
        router: its forms may have as many files as a clip has frames.
        config: the endpoint's config.
        table: the jobs.
        runner: notified of new ones.
        responses: OpenAPI descriptions of the errors of "post", "get", "result" and "delete".
        dependencies: of every route.
    """

    @router.post(JOBS, status_code=202, responses=responses["post"], dependencies=dependencies)
    async def send_job(
        request: Request,
        response: Response,
        form: Annotated[JobForm, Form(media_type="multipart/form-data")],
        accept: Annotated[str, Header(description="One or more of: " + ", ".join(JOB_TYPES))] = JOB_TYPES[0],
        x_model_version: Annotated[int | None, Header(description="Insist on a loaded version")] = None,
    ) -> JobStatus:
        """Have a clip segmented later: returns at once, with the id of the job.

        All media types that `Accept` names are made from one inference.
        """
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise RequestError(status=415, kind="unsupported", detail="send the clip as multipart/form-data")
        if form.webhook is not None:
            check_address(form.webhook, config.jobs)
        if runner.num_waiting >= config.jobs.max_queued:
            detail = f"{config.jobs.max_queued} jobs are waiting already; try again later"
            raise RequestError(
                status=429, kind="busy", detail=detail, limit="jobs.max_queued", retry_after_s=60
            )
        owner = request.scope.get(KEY_OF_REQUEST, "")
        if runner.num_kept[owner] >= config.jobs.max_kept:
            detail = f"{config.jobs.max_kept} jobs are kept already; remove those whose results you have"
            raise RequestError(
                status=429, kind="busy", detail=detail, limit="jobs.max_kept", retry_after_s=60
            )
        upload, now = await form.read(default_fps=config.fps), time.time()
        job = Job(
            id=table.new_id(),
            state="queued",
            created=now,
            expires=expiry(config, now),
            owner=owner,
            accept=_accepted(accept),
            pinned=x_model_version,
            webhook=form.webhook,
            frame=form.frame,
            overlay=form.overlay,
            **parts_of(upload),
        )
        await asyncio.to_thread(table.add, job, upload.file)
        runner.wake(job)
        response.headers["Location"] = f"{JOBS}/{job.id}"
        return job.status

    @router.get(f"{JOBS}/{{job_id}}", responses=responses["get"], dependencies=dependencies)
    async def job_status(request: Request, job_id: str) -> JobStatus:
        """State and progress of a job."""
        return (await _find(request, job_id)).status

    @router.get(
        f"{JOBS}/{{job_id}}/result",
        response_class=StreamingResponse,
        responses=responses["result"],
        dependencies=dependencies,
    )
    async def job_result(
        request: Request,
        job_id: str,
        accept: Annotated[str, Header(description="One of the job's results")] = "*/*",
    ) -> Response:
        """A result of a job that is done."""
        job = await _find(request, job_id)
        if job.state != "done":
            detail = f"job {job_id} is {job.state}" + (f": {job.problem.detail}" if job.problem else "")
            raise RequestError(status=409, kind="not_done", detail=detail)
        kind = negotiate(accept, offered=job.results)
        file = await asyncio.to_thread(table.result, job_id, job.results.index(kind))
        headers = {"X-Model-Version": job.model_version or ""}
        return StreamingResponse(_pieces(file), media_type=kind, headers=headers)

    @router.delete(
        f"{JOBS}/{{job_id}}", status_code=204, responses=responses["delete"], dependencies=dependencies
    )
    async def remove_job(request: Request, job_id: str) -> None:
        """Cancel a job that has not ended; remove one that has."""
        job = await _find(request, job_id)
        now = time.time()
        ended = {"state": "cancelled", "ended": now, "expires": now + config.jobs.keep_s}
        cancelled = await asyncio.to_thread(
            table.change,
            job_id,
            lambda found: None if found.state in ENDED_JOB else found.model_copy(update=ended),
        )
        if cancelled:
            await asyncio.to_thread(table.drop_upload, job_id)
        else:
            await asyncio.to_thread(table.remove, job)

    async def _find(request: Request, job_id: str) -> Job:
        """A job of this client. Other clients' jobs do not exist for it."""
        job = None
        if re.fullmatch(r"[0-9a-f]{32}", job_id):
            job = await asyncio.to_thread(table.get, job_id)
        owner, is_admin = (
            request.scope.get(KEY_OF_REQUEST, ""),
            request.scope.get(SCOPE_OF_REQUEST) == "admin",
        )
        if job is None or not (is_admin or job.owner == owner):
            raise RequestError(status=404, kind="http", detail=f"there is no job {job_id[:64]}")
        return job


def _accepted(accept: str) -> tuple[str, ...]:
    """The media types that an Accept header names, or else the one that it prefers."""
    names = {name for name, quality in map(media_range, accept.lower().split(",")) if quality > 0}
    return tuple(kind for kind in JOB_TYPES if kind in names) or (negotiate(accept, offered=JOB_TYPES),)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE):
            yield piece
