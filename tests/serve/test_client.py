"""The clients: retries that keep to Retry-After, files that appear when they are complete, progress."""

import asyncio
import importlib
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from in_process import Endpoint
from sdavs_serve.client import AsyncClient, Client, EndpointError, Progress, Retries, asynchronous
from sdavs_serve.errors import Busy, RequestError
from sdavs_serve.http.problems import problem_of
from sdavs_serve.schema import JobStatus


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"x" * 200_000)
    return path


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """Pauses between attempts, which take no time."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def refusal(error: RequestError, **headers: str) -> httpx.Response:
    content = problem_of(error).model_dump_json()
    return httpx.Response(
        error.status, content=content, headers={"content-type": "application/problem+json"} | headers
    )


class Answers:
    """Responses one after the other; an exception is raised."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.received: list[bytes] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.received.append(request.read())
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def client_of(answers: Callable[[httpx.Request], httpx.Response], **changes: object) -> Client:
    return Client("http://test", transport=httpx.MockTransport(answers), **changes)


def test_a_refused_request_is_sent_again_completely_after_retry_after(clip, tmp_path, pauses):
    answers = Answers(
        refusal(Busy(8), **{"Retry-After": "7"}),
        httpx.ConnectError("refused"),
        refusal(Busy(8)),
        httpx.Response(200, content=b"zip"),
    )
    client_of(answers).save_masks(clip, tmp_path / "masks.zip")
    assert (tmp_path / "masks.zip").read_bytes() == b"zip"
    assert pauses == [7.0, 1.0, 2.0]
    assert all(b"x" * 200_000 in body for body in answers.received)


def test_after_the_last_attempt_the_problem_is_raised_and_no_file_is_left(clip, tmp_path, pauses):
    answers = Answers(*(refusal(Busy(8)) for _ in range(2)))
    with pytest.raises(EndpointError, match="429 Too Many Requests") as error:
        client_of(answers, retries=Retries(attempts=2)).save_masks(clip, tmp_path / "masks.zip")
    assert error.value.problem.limit == "max_requests"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4"]


@pytest.mark.parametrize(
    "answer",
    [
        refusal(Busy(8), **{"Retry-After": "36000"}),
        refusal(RequestError(status=422, kind="corrupt", detail="damaged")),
        refusal(RequestError(status=504, kind="timeout", detail="too slow")),
        httpx.ReadTimeout("too slow"),
    ],
    ids=["tomorrow", "422", "504", "timeout"],
)
def test_what_would_not_help_is_not_tried_again(clip, pauses, answer):
    answers = Answers(answer)
    with pytest.raises((EndpointError, httpx.ReadTimeout)):
        client_of(answers).segment(clip)
    assert (len(answers.received), pauses) == (1, [])


def test_a_job_is_not_sent_twice_when_the_connection_is_lost(clip, pauses):
    answers = Answers(httpx.ReadError("lost"))
    with pytest.raises(httpx.ReadError):
        client_of(answers).submit(clip)
    assert len(answers.received) == 1
    answers = Answers(httpx.ReadError("lost"), httpx.Response(200, content=b"mp4"))
    client_of(answers).save_overlay_video(clip, clip.parent / "overlay.mp4")
    assert len(answers.received) == 2


def test_a_download_that_breaks_off_leaves_no_file(clip, tmp_path, pauses):
    class Broken(httpx.SyncByteStream):
        def __iter__(self):
            yield b"half"
            raise httpx.ReadError("lost")

    broken = httpx.Response(200, stream=Broken())
    with pytest.raises(httpx.ReadError):
        client_of(Answers(broken), retries=Retries(attempts=1)).save_masks(clip, tmp_path / "masks.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4"]


def test_progress_of_upload_and_download_is_reported(clip, tmp_path):
    seen: list[Progress] = []
    answers = Answers(httpx.Response(200, content=b"y" * 1000))
    client_of(answers, on_progress=seen.append).save_masks(clip, tmp_path / "masks.zip")
    sent = [progress for progress in seen if progress.direction == "upload"]
    assert len(sent) > 2
    assert (sent[-1].num_bytes, sent[-1].total) == (200_000, 200_000)
    assert seen[-1] == Progress(direction="download", num_bytes=1000, total=1000)


def test_the_client_for_asyncio_does_the_same_against_the_endpoint(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(asynchronous, "JOB_POLL_S", 0.02)
    endpoint = Endpoint(tmp_path, fake=True)

    async def scenario() -> None:
        transport = httpx.ASGITransport(app=endpoint.app)
        async with AsyncClient("http://test", api_key=endpoint.segment_key, transport=transport) as client:
            assert (await client.model()).model.version == "1"
            answer = await client.segment(clip)
            windows = [window async for window in client.segment_windows(clip)]
            assert [frame for window in windows for frame in window] == answer.frames
            await client.save(clip, tmp_path / "mask.png", accept="image/png", frame=1)
            assert (tmp_path / "mask.png").read_bytes().startswith(b"\x89PNG")
            job = await client.submit(clip)
            working = asyncio.create_task(endpoint.app.state.job_runner.run())
            assert (await client.wait(job.id)).state == "done"
            working.cancel()
            assert (await client.result(job.id)).frames == answer.frames
            await client.save_result(job.id, tmp_path / "answer.json")
            await client.cancel(job.id)
            with pytest.raises(EndpointError, match="there is no job"):
                await client.job(job.id)
            key = endpoint.segment_key
            pinned = AsyncClient("http://test", api_key=key, version=9, transport=transport)
            with pytest.raises(EndpointError, match="version 9 is not loaded"):
                await pinned.segment(clip)

    asyncio.run(scenario())


def test_waiting_for_a_job_may_have_a_limit(pauses):
    queued = JobStatus(id="a", state="queued", created=1.0, expires=2.0).model_dump_json()
    answers = Answers(*(httpx.Response(200, content=queued) for _ in range(3)))
    seen: list[JobStatus] = []
    with pytest.raises(TimeoutError, match="job a is still queued after 0 s"):
        client_of(answers).wait("a", timeout_s=0, on_status=seen.append)
    assert [status.state for status in seen] == ["queued"]


def test_jobs_segment_uploads_a_clip_once_for_overlays_and_film(clip, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "jobs"))
    segment_once = importlib.import_module("segment")._segment_once
    archive, film = tmp_path / "overlays.zip", tmp_path / "overlay.mp4"
    done = JobStatus(id="a", state="done", created=1.0, expires=2.0).model_dump_json()
    contents = [httpx.Response(200, content=content) for content in (done, done, b"zip", b"mp4", b"")]
    answers = Answers(*contents)
    assert segment_once(client_of(answers), clip, archive, film, fps=None)
    assert (archive.read_bytes(), film.read_bytes()) == (b"zip", b"mp4")
    assert [b"x" * 200_000 in body for body in answers.received] == [True, False, False, False, False]
    no_jobs = refusal(RequestError(status=404, kind="http", detail="Not Found"))
    assert not segment_once(client_of(Answers(no_jobs)), clip, archive, film, fps=None)
