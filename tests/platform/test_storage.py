"""Data sets and checkpoints in a bucket of a real S3-speaking server: verified, and continued after a kill."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from dying_workers import die_while_writing
from running import kill_family, process
from sdavs_platform.local import processes
from sdavs_platform.local.object_store import ObjectStore
from sdavs_platform.ray_internals import CHECKPOINT_LIST
from sdavs_platform.storage.datasets import MANIFEST, local_copy, upload
from sdavs_platform.storage.filesystem import Storage, require_writable
from sdavs_platform.tracking.client import mlflow_client
from sdavs_platform.tracking.runs import TrainingRun
from sdavs_platform.training.checkpoints.listing import has_checkpoints
from sdavs_platform.training.run import train
from waiting import patience

from sdavs_model import load_artifact

ROOT = Path(__file__).resolve().parents[2]
URI = "s3://data/realav"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """An S3 server on free ports of this machine, its address and keys in the standard places."""
    folder = tmp_path_factory.mktemp("s3")
    store = ObjectStore(host="127.0.0.1", port=processes.next_free(19000), key="reader", secret="writer")
    with ExitStack() as ending:
        patch = ending.enter_context(pytest.MonkeyPatch.context())
        service = store.start(folder)
        ending.callback(kill_family, service.pid)  # asked to end, it waits ten seconds for streams of its own
        keys = folder / "credentials"
        keys.write_text(
            f"[default]\naws_access_key_id = {store.key}\naws_secret_access_key = {store.secret}\n"
        )
        patch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name, raising=False)
        store.wait(service, folder=folder, buckets=("data", "results"))
        yield store


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips."""
    from sdavs_model.data.realav.build import SPLITS, RealAVConfig, prepare

    folder = tmp_path_factory.mktemp("clips")
    one = {f"num_{split}": int(split != "test_strict_wide") for split in SPLITS}
    prepare(folder, RealAVConfig(**one, size=32, num_frames=2))
    return folder


@pytest.fixture(scope="module")
def bucket(server: ObjectStore, clips: Path) -> str:
    """The small data set of these tests in the bucket."""
    sent = upload(clips, URI)
    assert sent["sent"] == sent["files"] > 20
    return URI


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_copy_of_a_bucket_holds_the_same_bytes_and_is_found_again_without_fetching(bucket, clips, tmp_path):
    fetched: list[int] = []
    copy = local_copy(bucket, cache=tmp_path, progress=lambda stage, done, total: fetched.append(done))
    assert {k: v for k, v in contents(copy).items() if k != ".complete"} == contents(clips)
    assert fetched
    fetched.clear()
    assert (
        local_copy(bucket, cache=tmp_path, progress=lambda stage, done, total: fetched.append(done)) == copy
    )
    assert not fetched
    assert local_copy(clips) == clips


def test_uploading_again_sends_only_what_changed_and_the_copy_gets_another_name(server, clips, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(clips, own)
    uri = "s3://data/own"
    upload(own, uri)
    before = local_copy(uri, cache=tmp_path / "cache")
    table = own / "Multi-sources" / "ms3_meta_data.csv"
    table.write_text(table.read_text().replace("\n", "\r\n"))
    assert upload(own, uri)["sent"] == 1
    assert local_copy(uri, cache=tmp_path / "cache") != before


def test_a_file_that_differs_from_the_manifest_is_refused_by_name(server, clips, tmp_path):
    uri = "s3://data/damaged"
    upload(clips, uri)
    name = "Multi-sources/ms3_meta_data.csv"
    Storage(uri, field="x").write(name, b"video_id,split\n")
    with pytest.raises(ValueError, match=rf"{uri}/{name} differs from {MANIFEST}"):
        local_copy(uri, cache=tmp_path)
    assert not list(tmp_path.rglob("ms3_meta_data.csv*"))
    assert not list(tmp_path.rglob(".complete"))


def test_a_folder_without_manifest_a_missing_bucket_and_a_hostile_manifest_are_refused(server, tmp_path):
    with pytest.raises(ValueError, match=r"s3://data/nothing/sdavs_manifest.json is missing"):
        local_copy("s3://data/nothing", cache=tmp_path)
    with pytest.raises(ValueError, match=r"data.root: s3://no-such-bucket/x"):
        local_copy("s3://no-such-bucket/x", cache=tmp_path)
    hostile = {"version": 1, "files": {"../../x": {"bytes": 1, "sha256": "0"}}}
    Storage("s3://data/hostile", field="x").write(MANIFEST, json.dumps(hostile).encode())
    with pytest.raises(ValueError, match="is outside the folder"):
        local_copy("s3://data/hostile", cache=tmp_path)


def fetching(uri: str, cache: Path, report: str) -> "AbstractContextManager[subprocess.Popen[str]]":
    """A process of its own that makes a local copy; `report` is called with (stage, files done, files in total)."""
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom sdavs_platform.storage.datasets import local_copy\n"
        f"local_copy({uri!r}, cache=Path(sys.argv[1]), num_workers=1, progress={report})\n"
    )
    return process(
        [sys.executable, "-c", program, str(cache)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_of_several_workers_of_a_node_one_fetches(bucket, clips, tmp_path):
    with ExitStack() as running:
        report = "lambda stage, done, total: print(done)"
        workers = [running.enter_context(fetching(bucket, tmp_path, report=report)) for _ in range(2)]
        counts = sorted(len(worker.communicate(timeout=patience(120))[0].splitlines()) for worker in workers)
    assert [worker.returncode for worker in workers] == [0, 0]
    assert counts == [0, len(contents(clips))]


def test_a_killed_fetch_leaves_no_half_file_and_is_continued(bucket, clips, tmp_path):
    die = "lambda stage, done, total: os.kill(os.getpid(), signal.SIGKILL) if done == 5 else None"
    with fetching(bucket, tmp_path, report=die) as fetch:
        fetch.wait(timeout=patience(120))
    assert fetch.returncode == -signal.SIGKILL
    wanted = contents(clips)
    left = {
        k.partition("/")[2]: v for k, v in contents(tmp_path).items() if not k.endswith((".part", ".lock"))
    }
    assert 5 <= len(left) < len(wanted)
    assert all(wanted[name] == content for name, content in left.items())
    done: list[int] = []
    copy = local_copy(bucket, cache=tmp_path, progress=lambda stage, d, total: done.append(d))
    assert len(done) == len(wanted) - len(left)
    assert {k: v for k, v in contents(copy).items() if k in wanted} == wanted


def test_of_many_writers_of_one_file_in_a_bucket_one_succeeds(server):
    storage = Storage("s3://results/lease", field="storage.uri")
    assert storage.read("file") is None
    first = winners(storage, expected=None)
    assert len(first) == 1
    assert storage.read("file") == first[0]
    second = winners(storage, expected=first[0])
    assert len(second) == 1
    assert not storage.replace("file", b"late", expected=first[0])
    assert not storage.delete_if("file", expected=first[0])
    assert storage.delete_if("file", expected=second[0])
    assert not storage.delete_if("file", expected=second[0])
    storage.delete("file")
    assert not storage.replace("file", b"late", expected=second[0])
    with pytest.raises(ValueError, match=r"storage.uri: s3://none/lease cannot be reached: .*NoSuchBucket"):
        Storage("s3://none/lease", field="storage.uri").replace("file", b"", expected=None)


def winners(storage: Storage, *, expected: bytes | None) -> list[bytes]:
    """Eight threads replace the same file at once; the contents of those that succeed."""
    start, won = threading.Barrier(8), []

    def write(content: bytes) -> None:
        start.wait()
        if storage.replace("file", content, expected=expected):
            won.append(content)

    threads = [threading.Thread(target=write, args=(os.urandom(8),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


def test_checkpoints_are_found_in_a_bucket_and_in_a_folder(server, tmp_path):
    for uri in ("s3://results/found", str(tmp_path)):
        assert not has_checkpoints(uri, "run")
        Storage(uri, field="storage.uri").write(f"run/{CHECKPOINT_LIST}", b"{}")
        assert has_checkpoints(uri, "run")


def test_a_missing_bucket_wrong_keys_and_an_unavailable_server_are_distinguished(server, monkeypatch):
    with pytest.raises(
        ValueError, match=r"storage.uri: s3://no-such-bucket/x: there is no bucket no-such-buck"
    ):
        has_checkpoints("s3://no-such-bucket/x", "run")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ValueError, match=r"storage.uri: s3://results refuses access .* AWS_ACCESS_KEY_ID"):
        has_checkpoints("s3://results", "run")
    with pytest.raises(ValueError, match=r"storage.uri: s3://results refuses access"):
        require_writable("s3://results", "run")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{processes.next_free(19900)}")
    with pytest.raises(ValueError, match=r"storage.uri: s3://results cannot be reached: .*connect"):
        has_checkpoints("s3://results", "run")


def test_training_opens_its_splits_from_a_bucket_with_the_digest_of_the_folder(bucket, clips, make_config):
    from sdavs_platform.storage.datasets import open_split

    model = make_config("any").model.to_dict() | {"num_frames": 2}
    local = open_split(make_config("local", model=model, data={"root": str(clips)}), "val")
    remote = open_split(make_config("remote", model=model, data={"root": bucket}), "val")
    assert remote.source.digest == local.source.digest
    assert remote[0]["frames"].equal(local[0]["frames"])


@pytest.fixture
def make_remote(make_config: Any, data: Path) -> Any:
    """A training of 8 steps by two workers whose checkpoints, one after every second step, go to the bucket."""

    def make(**changes: Any) -> Any:
        return make_config(
            "remote",
            model={"backbone": "test_resnet", "image_size": 32, "width": 16, "num_heads": 2},
            training={"epochs": 2, "val_every": 2, "batch_size": 2, "log_every": 1, "checkpoint_every": 2},
            data={"test_splits": []},
            storage={"uri": "s3://results/runs"},
            **changes,
        )

    return make


def test_a_killed_training_resumes_from_the_bucket_and_skips_half_uploaded_checkpoints(
    server, cluster, make_remote, tmp_path, capfd
):
    settings = make_remote(cluster={"max_failures": 0})
    with pytest.MonkeyPatch.context() as patch:
        die_while_writing(patch, number=3)
        with pytest.raises(RuntimeError):
            train(settings, finishes=False)
    run = TrainingRun.find(settings.name, storage=settings.storage.uri, uri=settings.tracking.uri)
    assert any(not list(part.glob("manifest-*")) for part in parts_here(run.run_id))
    newest = listed()[0]
    # What ends while it uploads leaves a folder that is not listed; and a listed one shall have lost a part.
    client = server.client()
    client.put_object(Bucket="results", Key="runs/remote/checkpoint_2999-01-01/loop.json", Body=b"{}")
    client.delete_object(Bucket="results", Key=f"runs/remote/{newest}/manifest-rank1.json")

    result = train(make_remote(), finishes=False)
    assert not parts_here(result.run_id)
    said = capfd.readouterr().out
    assert re.search(rf"skipping {newest}: .*manifest-rank1.json: missing", said)
    assert "remote: resuming after step" in said
    assert result.checkpoint.startswith("s3://results/runs/remote/checkpoint_")
    history = mlflow_client(settings.tracking.uri).get_metric_history(result.run_id, "train/loss")
    assert [point.step for point in history] == list(range(1, 9))

    out = tmp_path / "model"
    command = [
        sys.executable,
        "jobs/export.py",
        "--name",
        "remote",
        "--checkpoint",
        "newest",
        "--out",
        str(out),
    ]
    command += ["--storage", "s3://results/runs", "--tracking-uri", settings.tracking.uri]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "remote after step 8" in ran.stdout
    assert load_artifact(out).lineage["checkpoint"].startswith("s3://results/runs/remote/")


def listed() -> list[str]:
    """The checkpoints that count, newest first."""
    storage = Storage("s3://results/runs/remote", field="x")
    with storage.open(CHECKPOINT_LIST) as file:
        known = json.loads(file.read())["checkpoint_results"]
    steps = {one["checkpoint_dir_name"]: one["metrics"]["step"] for one in known}
    return sorted(steps, key=steps.__getitem__, reverse=True)


def parts_here(run_id: str) -> list[Path]:
    """Workers' parts of checkpoints that have not been uploaded."""
    return list(Path(tempfile.gettempdir()).glob(f"sdavs-checkpoint-{run_id}-*"))
