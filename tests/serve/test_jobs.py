"""Clips that are sent now and whose results are fetched later."""

import asyncio
import json
import time
import zipfile
from collections.abc import Awaitable, Callable
from io import BytesIO

import httpx
import pytest
import uvicorn
from in_process import Endpoint, FrozenClock
from sdavs_platform.config.serve import JobsConfig
from sdavs_serve.errors import NoModel, RequestError
from sdavs_serve.http import job_runner
from sdavs_serve.http.job_runner import JobRunner
from sdavs_serve.http.job_table import Job
from sdavs_serve.http.job_webhook import JobWebhooks, check_address, signature
from uvicorn.lifespan.on import LifespanOn
from waiting import patience


@pytest.fixture
def endpoint(tmp_path) -> Endpoint:
    return Endpoint(tmp_path, fake=True)


def runner_of(endpoint: Endpoint, **changes: object) -> JobRunner:
    """Another replica on the same storage."""
    first: JobRunner = endpoint.app.state.job_runner

    async def nobody(job: Job) -> None:
        pass

    given = {
        "config": endpoint.config,
        "table": first._table,
        "segmenter": first._segmenter,
        "sandbox": endpoint.decoder,
        "notify": nobody,
        "clock": FrozenClock(time.time()),
    }
    return JobRunner(**(given | changes))


def post(endpoint: Endpoint, **more: object) -> httpx.Response:
    """The response to a clip that is sent as a job."""
    key = endpoint.segment_key
    return endpoint.ask("POST", "/v1/jobs", key=key, files={"video": b"clip"}, **more)


def send(endpoint: Endpoint, accept: str = "application/json", **more: object) -> str:
    """Send a clip as a job; returns the path of the job."""
    answer = post(endpoint, headers={"Accept": accept}, **more)
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/v1/jobs/{answer.json()['id']}"
    assert "owner" not in answer.json()
    return answer.headers["Location"]


def status(endpoint: Endpoint, job: str) -> dict:
    return endpoint.ask("GET", job, key=endpoint.segment_key).json()


def work(runner: JobRunner, then: Callable[[], Awaitable[None]] | None = None) -> None:
    """Let a runner look once and finish what it takes up."""

    async def scenario() -> None:
        await runner.look()
        if then:
            await then()
        await runner.join()

    asyncio.run(scenario())


def test_a_job_is_sent_worked_at_and_fetched_in_every_form_from_one_inference(endpoint):
    job = send(endpoint, "application/json, application/zip")
    assert status(endpoint, job)["state"] == "queued"
    early = endpoint.ask("GET", f"{job}/result", key=endpoint.segment_key)
    assert (early.status_code, early.json()["detail"][-6:]) == (409, "queued")
    runner = runner_of(endpoint)
    work(runner)
    done = status(endpoint, job)
    assert (done["state"], done["num_frames"], done["model_version"]) == ("done", 5, "1")
    assert done["results"] == ["application/json", "application/zip"]
    assert done["expires"] == runner._clock() + 86_400
    whole = endpoint.ask("GET", f"{job}/result", key=endpoint.segment_key)
    assert (whole.headers["content-type"], len(whole.json()["frames"])) == ("application/json", 5)
    headers = {"Accept": "application/zip"}
    archive = endpoint.ask("GET", f"{job}/result", key=endpoint.segment_key, headers=headers)
    assert len(zipfile.ZipFile(BytesIO(archive.content)).namelist()) == 6
    assert endpoint.model.num_windows == 3
    headers = {"Accept": "video/mp4"}
    assert endpoint.ask("GET", f"{job}/result", key=endpoint.segment_key, headers=headers).status_code == 406


def test_a_form_that_accept_excludes_is_not_made(endpoint):
    job = send(endpoint, "application/json;q=0, application/zip")
    work(runner_of(endpoint))
    assert status(endpoint, job)["results"] == ["application/zip"]


def test_a_job_belongs_to_the_key_that_sent_it_and_to_admins(endpoint, tmp_path):
    job = send(endpoint)
    other = Endpoint(tmp_path / "other", fake=True).segment_key  # unknown here
    assert endpoint.ask("GET", job, key=other).status_code == 401
    from sdavs_serve.http.keys import KeyFile

    second = KeyFile.of(endpoint.config).add("segment")
    for method, path in (("GET", job), ("GET", f"{job}/result"), ("DELETE", job)):
        assert endpoint.ask(method, path, key=second).status_code == 404
    assert endpoint.ask("GET", job, key=endpoint.admin_key).status_code == 200
    assert endpoint.ask("GET", "/v1/jobs/../../etc", key=endpoint.admin_key).status_code == 404


def test_a_job_of_a_replica_that_was_lost_is_taken_up_by_another_one_and_not_before(endpoint):
    job = send(endpoint)
    clock = FrozenClock(time.time())
    lost, second = runner_of(endpoint, clock=clock), runner_of(endpoint, clock=clock)

    async def scenario() -> None:
        endpoint.model.gate = asyncio.Event()
        await lost.look()
        for task in lost._running.values():
            task.cancel()
        await lost.join()

    asyncio.run(scenario())
    endpoint.model.gate = None
    assert status(endpoint, job)["state"] == "running"
    work(second)
    assert status(endpoint, job)["state"] == "running", "it may only be slow"
    clock.now += job_runner.LOST_S + 1
    work(second)
    assert status(endpoint, job)["state"] == "done"


def test_of_two_replicas_one_works_at_a_job(endpoint):
    send(endpoint)
    runners = [runner_of(endpoint) for _ in range(3)]

    async def scenario() -> None:
        await asyncio.gather(*(runner.look() for runner in runners))
        assert sum(len(runner._running) for runner in runners) == 1
        for runner in runners:
            await runner.join()

    asyncio.run(scenario())


def test_a_job_whose_replicas_are_lost_again_and_again_fails(endpoint):
    job = send(endpoint)
    runner = runner_of(endpoint)
    number = job.rpartition("/")[2]
    lost = {"attempts": job_runner.MAX_ATTEMPTS, "state": "running", "holder": "gone", "beat": 0.0}
    runner._table.change(number, lambda found: found.model_copy(update=lost))
    work(runner)
    failed = status(endpoint, job)
    assert (failed["state"], failed["problem"]["status"]) == ("failed", 500)
    assert "lost 3 times" in failed["problem"]["detail"]


def test_progress_is_reported_and_a_cancelled_job_stops(endpoint, monkeypatch):
    monkeypatch.setattr(job_runner, "BEAT_S", 0.02)
    job = send(endpoint)
    runner = runner_of(endpoint)

    async def cancel() -> None:
        for _ in range(200):
            await asyncio.sleep(0.02)
            number = job.rpartition("/")[2]
            found = await asyncio.to_thread(runner._table.get, number)
            if found.num_frames == 2:
                break
        assert found.num_frames == 2, "the first window is ready"
        cancelled = {"state": "cancelled"}
        await asyncio.to_thread(
            runner._table.change, number, lambda found: found.model_copy(update=cancelled)
        )

    async def scenario() -> None:
        endpoint.model.gate = asyncio.Event()
        await runner.look()
        await cancel()
        await asyncio.wait_for(runner.join(), 10)

    asyncio.run(scenario())
    assert status(endpoint, job)["state"] == "cancelled"
    assert endpoint.decoder.num_closed == endpoint.decoder.num_decodings == 1
    assert endpoint.ask("DELETE", job, key=endpoint.segment_key).status_code == 204
    assert endpoint.ask("GET", job, key=endpoint.segment_key).status_code == 404


def test_a_waiting_job_is_cancelled_without_being_worked_at(endpoint):
    job = send(endpoint)
    assert endpoint.ask("DELETE", job, key=endpoint.segment_key).status_code == 204
    work(runner_of(endpoint))
    assert (status(endpoint, job)["state"], endpoint.model.num_windows) == ("cancelled", 0)


def test_a_clip_that_cannot_be_read_fails_and_a_busy_model_is_retried(endpoint):
    job = send(endpoint)
    endpoint.model.failures = {1: NoModel("the queue is full", limit="max_queued")}
    runner = runner_of(endpoint)
    work(runner)
    assert status(endpoint, job)["state"] == "queued"
    endpoint.model.failures = {2: RequestError(status=422, kind="corrupt", detail="damaged")}
    work(runner)
    failed = status(endpoint, job)
    assert (failed["state"], failed["problem"]["detail"]) == ("failed", "damaged")
    result = endpoint.ask("GET", f"{job}/result", key=endpoint.segment_key)
    assert (result.status_code, "damaged" in result.json()["detail"]) == (409, True)


def test_results_are_removed_after_a_while_with_everything_else(endpoint, tmp_path):
    job = send(endpoint)
    clock = FrozenClock(time.time())
    runner = runner_of(endpoint, clock=clock)
    work(runner)
    clock.now += endpoint.config.jobs.keep_s - 1
    work(runner)
    assert status(endpoint, job)["state"] == "done"
    clock.now += 1
    work(runner)
    assert endpoint.ask("GET", job, key=endpoint.segment_key).status_code == 404
    assert list((tmp_path / "jobs").iterdir()) == []


def test_only_so_many_jobs_may_wait(tmp_path):
    endpoint = Endpoint(tmp_path, fake=True, jobs=JobsConfig(uri=str(tmp_path / "jobs"), max_queued=2))
    send(endpoint)
    send(endpoint)
    answer = endpoint.ask("POST", "/v1/jobs", key=endpoint.segment_key, files={"video": b"clip"})
    assert (answer.status_code, answer.json()["limit"]) == (429, "jobs.max_queued")
    assert "Retry-After" in answer.headers


def test_a_key_may_have_only_so_many_jobs_kept_and_removing_some_makes_room(tmp_path):
    jobs = JobsConfig(uri=str(tmp_path / "jobs"), max_kept=2)
    endpoint = Endpoint(tmp_path, fake=True, jobs=jobs)
    first = send(endpoint)
    send(endpoint)
    runner = endpoint.app.state.job_runner
    work(runner)
    answer = endpoint.ask("POST", "/v1/jobs", key=endpoint.segment_key, files={"video": b"clip"})
    assert (answer.status_code, answer.json()["limit"]) == (429, "jobs.max_kept")
    assert endpoint.ask("POST", "/v1/jobs", key=endpoint.admin_key, files={"video": b"a"}).status_code == 202
    assert endpoint.ask("DELETE", first, key=endpoint.segment_key).status_code == 204
    work(runner)
    send(endpoint)


def test_a_key_with_many_jobs_does_not_hold_up_the_others(endpoint):
    many = [send(endpoint) for _ in range(3)]
    answer = endpoint.ask("POST", "/v1/jobs", key=endpoint.admin_key, files={"video": b"clip"})
    clock = FrozenClock(time.time() + 1)
    runner = runner_of(endpoint, clock=clock)
    for _ in range(4):
        work(runner)
        clock.now += 1
    paths = [many[0], answer.headers["Location"], *many[1:]]
    jobs = [endpoint.ask("GET", path, key=endpoint.admin_key).json() for path in paths]
    started = [job["started"] for job in jobs]
    assert started == sorted(started)
    assert len(set(started)) == 4


def test_a_record_that_cannot_be_read_does_not_stop_the_other_jobs(endpoint, tmp_path):
    job = send(endpoint)
    (tmp_path / "jobs" / f"{'0' * 32}.json").write_text("{}")
    work(runner_of(endpoint))
    assert status(endpoint, job)["state"] == "done"


def test_records_of_jobs_that_have_ended_are_read_once(endpoint, monkeypatch):
    for _ in range(3):
        send(endpoint)
    runner = runner_of(endpoint)
    for _ in range(4):
        work(runner)
    read: list[str] = []
    get = runner._table.get
    monkeypatch.setattr(runner._table, "get", lambda job_id: read.append(job_id) or get(job_id))
    work(runner)
    assert read == []
    send(endpoint)
    work(runner)
    assert len(set(read)) == 1


def test_a_job_that_is_removed_while_its_results_are_stored_leaves_no_file(endpoint, tmp_path, monkeypatch):
    job = send(endpoint)
    runner = runner_of(endpoint)
    save = runner._table.save_result

    def save_late(*what: object) -> None:
        for _ in range(2):  # cancel it, then remove it
            assert endpoint.ask("DELETE", job, key=endpoint.segment_key).status_code == 204
        save(*what)

    monkeypatch.setattr(runner._table, "save_result", save_late)
    work(runner)
    assert list((tmp_path / "jobs").iterdir()) == []


def test_a_job_that_is_cancelled_when_its_results_are_stored_leaves_no_file_in_the_end(
    endpoint, tmp_path, monkeypatch
):
    job = send(endpoint)
    clock = FrozenClock(time.time())
    runner = runner_of(endpoint, clock=clock)
    save = runner._table.save_result

    def save_and_cancel(*what: object) -> None:
        save(*what)
        assert endpoint.ask("DELETE", job, key=endpoint.segment_key).status_code == 204

    monkeypatch.setattr(runner._table, "save_result", save_and_cancel)
    work(runner)
    assert status(endpoint, job)["state"] == "cancelled"
    clock.now += endpoint.config.jobs.keep_s + 60
    work(runner)
    assert list((tmp_path / "jobs").iterdir()) == []


def test_several_ingress_replicas_offer_jobs_only_on_a_storage_that_they_share(tmp_path):
    for uri, offered in ((None, False), (str(tmp_path / "jobs"), True)):
        endpoint = Endpoint(tmp_path, fake=True, ingress_replicas=2, jobs=JobsConfig(uri=uri))
        assert ("/v1/jobs" in endpoint.app.openapi()["paths"]) is offered


def test_a_webhook_is_signed_tried_again_and_allowed_only_where_the_config_says(endpoint, tmp_path):
    (tmp_path / "secret").write_text("s3cret\n")
    config = JobsConfig(webhook_hosts=("hooks.example",), webhook_secret_file=str(tmp_path / "secret"))
    check_address("https://hooks.example/done?x=1", config)
    for wrong in ("https://other.example/", "ftp://hooks.example/", "http://127.0.0.1/", "hooks.example"):
        with pytest.raises(RequestError, match="allowed are http and https addresses of these hosts"):
            check_address(wrong, config)
    with pytest.raises(ValueError, match="webhook_secret_file"):
        JobsConfig(webhook_hosts=("hooks.example",))
    received: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        received.append(request)
        return httpx.Response(500 if len(received) == 1 else 204)

    hooks = JobWebhooks(config, transport=httpx.MockTransport(answer), pauses_s=(0.0, 0.0))
    job = send(endpoint)
    runner = runner_of(endpoint, notify=hooks)
    called = {"webhook": "https://hooks.example/done"}
    runner._table.change(job.rpartition("/")[2], lambda found: found.model_copy(update=called))
    work(runner)
    assert len(received) == 2
    last = received[-1]
    assert json.loads(last.content)["state"] == "done"
    facts = {"delivery": last.headers["X-SDAVS-Delivery"], "timestamp": last.headers["X-SDAVS-Timestamp"]}
    assert last.headers["X-SDAVS-Signature"] == signature("s3cret", body=last.content, **facts)


def test_a_slow_receiver_of_a_webhook_does_not_hold_up_the_next_job(endpoint):
    jobs = [send(endpoint), send(endpoint)]

    async def scenario() -> None:
        received = asyncio.Event()

        async def notify(job: Job) -> None:
            await received.wait()

        runner = runner_of(endpoint, notify=notify)
        called = {"webhook": "https://hooks.example/done"}
        for job in jobs:
            runner._table.change(job.rpartition("/")[2], lambda found: found.model_copy(update=called))
        running = asyncio.create_task(runner.run())
        async with asyncio.timeout(patience(20)):
            while len(runner._notifying) < 2:
                await asyncio.sleep(0.02)
        received.set()
        await runner.join()
        running.cancel()

    asyncio.run(scenario())
    assert [status(endpoint, job)["state"] for job in jobs] == ["done", "done"]


@pytest.mark.parametrize("address", ["http://169.254.169.254/", "http://[broken/", "http://a\nb/"])
def test_a_job_with_a_webhook_to_elsewhere_is_refused(address, endpoint):
    answer = post(endpoint, data={"webhook": address})
    assert (answer.status_code, answer.json()["field"]) == (422, "webhook")


def test_the_endpoint_works_at_jobs_from_its_start_to_its_end(endpoint):
    """Started and stopped as Serve does it: by uvicorn's lifespan."""
    job = send(endpoint)

    async def scenario() -> None:
        lifespan = LifespanOn(uvicorn.Config(endpoint.app, lifespan="on"))
        await lifespan.startup()
        assert not lifespan.should_exit
        async with asyncio.timeout(patience(20)):
            while not endpoint.app.state.job_runner._running and endpoint.model.num_windows < 3:
                await asyncio.sleep(0.02)
        await endpoint.app.state.job_runner.join()
        await lifespan.shutdown()

    asyncio.run(scenario())
    assert status(endpoint, job)["state"] == "done"
