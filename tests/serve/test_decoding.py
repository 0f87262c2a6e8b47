"""Untrusted uploads: decoded in processes with limits, which may die without taking anything else down."""

import errno
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from sdavs_platform.config.tree import ServeConfig
from sdavs_serve.decoding import own_user, protocol
from sdavs_serve.decoding.decoder import Job, MediaLimits
from sdavs_serve.decoding.media import decode_video, windows
from sdavs_serve.decoding.sandboxed_decoders import Decoding, Sandbox, Upload
from sdavs_serve.encoding.responses import JsonWriter, SegmentedFrame
from sdavs_serve.errors import MediaError
from sdavs_serve.model_calls import regions_of
from sdavs_serve.schema import AnswerHead, ModelInfo, SegmentAnswer, Timings
from sdavs_serve.tools.fuzz import CODECS, fuzz, small_video
from waiting import patience, wait_until

from sdavs_model.config import PreprocessConfig
from sdavs_model.data.core.preprocess import Preprocessor

LIMITS = ServeConfig(max_seconds=4000, max_frames=4000)


def upload_of(content: bytes, fps: float = 1.0) -> Upload:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the upload
    file.write(content)
    file.flush()
    return Upload(file=file, kind="video", parts=[(0, len(content))], fps=fps, threshold=0.5)


@pytest.fixture(scope="module")
def sandbox():
    made = Sandbox(LIMITS)
    yield made
    made.close()


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_a_decoder_process_gives_the_same_samples_as_decoding_here(sandbox, make_video, kind):
    video = make_video(3, kind=kind)
    there = list(sandbox.samples(upload_of(video)).samples())
    here = list(decode_video(video, fps=1, limits=LIMITS))
    assert len(there) == len(here) == 3
    for left, right in zip(there, here, strict=True):
        assert left.time_s == right.time_s
        assert np.array_equal(left.picture, right.picture)
        assert np.array_equal(left.second, right.second)


def test_a_decoder_that_needs_too_much_memory_or_time_is_stopped_and_the_next_upload_is_fine(make_video):
    video = make_video(20, fps=5)
    for limit, value in (("decoder_memory_mb", 0.5), ("max_pixels", 1000)):
        small = Sandbox(LIMITS.model_copy(update={limit: value}))
        with pytest.raises(MediaError) as refused:
            list(small.samples(upload_of(video)).samples())
        assert (refused.value.status, refused.value.limit) == (413, limit)
        small.close()


@pytest.mark.slow
def test_killed_decoders_are_started_again(sandbox, make_video):
    video = make_video(2)
    assert len(list(sandbox.samples(upload_of(video)).samples())) == 2
    decoding = sandbox.samples(upload_of(make_video(300))).samples()
    next(decoding)
    server = psutil.Process(sandbox.server)
    for process in [*server.children(recursive=True), server]:
        process.kill()
    with pytest.raises(MediaError, match="the decoder crashed"):
        list(decoding)
    # An upload that comes before it is gone is still handed to it, and lost with it.
    server.wait(patience(10))
    assert len(list(sandbox.samples(upload_of(video)).samples())) == 2


@pytest.mark.slow
def test_a_decoder_ends_when_its_client_has_gone(sandbox, make_video):
    decoding = sandbox.samples(upload_of(make_video(300)))
    samples = decoding.samples()
    next(samples)
    server = psutil.Process(sandbox.server)
    working = server.children(recursive=True)
    assert working
    decoding.close()
    _, alive = psutil.wait_procs(working, timeout=patience(20))
    assert not alive


def test_no_decoder_starts_for_an_upload_whose_client_has_gone(sandbox, make_video):
    """The thread that writes an overlay asks for the sound at its end, and learns nothing of the client."""
    upload = upload_of(make_video(2))
    assert len(list(sandbox.samples(upload).samples())) == 2
    upload.stop_decoding()
    with pytest.raises(MediaError, match="crashed"):
        list(sandbox.sound(upload, until=2.0).sound())


@pytest.mark.slow
def test_a_decoder_that_is_busy_is_killed_when_its_client_has_gone(make_video):
    sandbox = Sandbox(LIMITS)
    upload = upload_of(make_video(300))
    samples = sandbox.samples(upload).samples()
    next(samples)
    working = psutil.Process(sandbox.server).children(recursive=True)
    working[-1].suspend()  # it reaches no message any more, as if it computed for ever
    upload.stop_decoding()
    _, alive = psutil.wait_procs(working, timeout=patience(20))
    assert not alive
    sandbox.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="a decoder's descriptors are shown to root only")
def test_a_decoder_has_no_connection_of_another_client(make_video):
    sandbox = Sandbox(LIMITS)
    clients = [sandbox.samples(upload_of(make_video(20))).samples() for _ in range(2)]
    for samples in clients:
        next(samples)
    decoders = psutil.Process(sandbox.server).children()
    assert len(decoders) == 2
    for process in decoders:
        folder = Path(f"/proc/{process.pid}/fd")
        held = [os.readlink(descriptor) for descriptor in folder.iterdir()]
        assert [name.partition(":")[0] for name in held].count("socket") == 1
        assert not any("pidfd" in name for name in held)
    assert [len(list(samples)) for samples in clients] == [19, 19]
    sandbox.close()


def test_the_end_of_a_decoder_that_died_is_reported_behind_what_it_sent(make_video):
    sandbox = Sandbox(LIMITS)
    reasons: list[str] = []
    # Behind half a message nothing can be reported: then the reason is unknown, and the next decoder is killed.
    while not any("SIGKILL" in reason for reason in reasons):
        assert len(reasons) < 20, reasons
        samples = sandbox.samples(upload_of(make_video(20))).samples()
        next(samples)
        (process,) = psutil.Process(sandbox.server).children()
        process.kill()
        with pytest.raises(MediaError, match="the decoder crashed while reading it") as error:
            list(samples)
        reasons.append(str(error.value))
        server = psutil.Process(sandbox.server)
        wait_until(
            lambda: not server.children(),  # noqa: B023
            what="end of the decoder, and of the process that reported it",
        )
    sandbox.close()


@pytest.mark.slow
def test_decoders_know_no_secret_of_ours_and_can_open_nothing(make_video):
    sandbox = Sandbox(LIMITS)  # its own: another test's decoder may still be ending
    decoding = sandbox.samples(upload_of(make_video(300)))
    samples = decoding.samples()
    next(samples)
    server = psutil.Process(sandbox.server)
    assert set(server.environ()) <= {"PATH", "PYTHONPATH", "OPENBLAS_NUM_THREADS", "LC_CTYPE"}
    decoder = server.children(recursive=True)[-1]
    limits = Path(f"/proc/{decoder.pid}/limits").read_text()
    for name in ("open files", "file size"):
        assert re.search(rf"Max {name} +0 +0 ", limits), limits
    status = Path(f"/proc/{decoder.pid}/status").read_text()
    assert "Seccomp:\t2" in status, "it runs under a filter"
    assert "NoNewPrivs:\t1" in status
    if os.geteuid() == 0:
        (user,) = set(re.search(r"Uid:\s+(.*)", status)[1].split())
        assert int(user) in own_user.USERS
        assert re.search(r"CapEff:\s+0+\n", status)
        assert os.listdir(f"/proc/{decoder.pid}/root") == []
    decoding.close()
    sandbox.close()


ATTEMPTS = {
    "signal": "os.kill(os.getppid(), 0)",
    "fork": "os.fork()",
    "run a program": "os.execv('/bin/true', ['true'])",
    "connect": "socket.socket()",
    "read another process": "read(os.getppid())",
    "trace another process": "trace(os.getppid())",
    "limit another process": "resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0))",
    "raise its own limits": "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    "slow down another process": "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "move another process": "os.sched_setaffinity(os.getppid(), {0})",
    "read its own limits": "resource.getrlimit(resource.RLIMIT_STACK)",
    "start a thread": "thread = threading.Thread(target=print); thread.start(); thread.join()",
    "signal itself": "signal.signal(signal.SIGUSR1, print); signal.raise_signal(signal.SIGUSR1)",
}

SCRIPT = """
import ctypes, os, resource, signal, socket, sys, threading
from sdavs_serve.decoding import own_user, seccomp

root = own_user.EmptyRoot()
libc = ctypes.CDLL(None, use_errno=True)

def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")

def read(pid):
    word = ctypes.c_uint64()
    piece = (ctypes.c_uint64 * 2)(ctypes.addressof(word), 8)  # an iovec
    checked(libc.process_vm_readv(pid, piece, 1, piece, 1, 0))

def trace(pid):
    checked(libc.ptrace(16, pid, None, None))

{confine}
try:
    {attempt}
except OSError as error:
    sys.exit(error.errno)
os._exit(0)
"""


@pytest.mark.parametrize("what", ATTEMPTS)
def test_a_decoder_that_was_taken_over_reaches_no_other_process_and_no_network(what):
    allowed = what in ("start a thread", "signal itself", "read its own limits")
    assert outcome(ATTEMPTS[what], confine="seccomp.isolate(); seccomp.restrict()") == (
        0 if allowed else errno.EPERM
    )


def outcome(attempt: str, *, confine: str) -> int:
    """The error number of an attempt in a confined process; 0 if it succeeds."""
    script = SCRIPT.format(attempt=attempt, confine=confine)
    return subprocess.run([sys.executable, "-c", script], check=False).returncode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change users")
@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        ("os.kill(os.getppid(), 0)", errno.EPERM),
        ("read(os.getppid())", errno.EPERM),
        ("trace(os.getppid())", errno.EPERM),
        ("open({file!r})", errno.EACCES),
        ("open('/proc/self/status')", errno.EACCES),
        ("open('new', 'w')", errno.EACCES),
        ("os.setuid(0)", errno.EPERM),
    ],
)
def test_where_the_endpoint_is_root_a_decoder_has_no_rights_and_no_files_even_without_the_filter(
    attempt, error, tmp_path
):
    secret = tmp_path / "model.safetensors"
    secret.write_bytes(b"weights")
    assert outcome(attempt.format(file=str(secret)), confine="own_user.become(root)") == error


PICTURE, SECOND = np.zeros((4, 4, 3), np.uint8), np.zeros(16_000, np.float32)


@pytest.mark.parametrize(
    ("arrays", "changes"),
    [
        ([PICTURE, SECOND], {"size": [10**6, 10**6]}),
        ([PICTURE, SECOND], {"size": [-1, -1]}),
        ([PICTURE, SECOND], {"size": [4.5, 4]}),
        ([PICTURE, SECOND], {"time_s": float("nan")}),
        ([PICTURE, SECOND], {"time_s": "soon"}),
        ([PICTURE[..., 0], SECOND], {}),
        ([PICTURE.astype(np.float32), SECOND], {}),
        ([PICTURE, SECOND.astype(np.float64)], {}),
        ([PICTURE, np.zeros(20_000, np.float32)], {}),
        ([PICTURE], {}),
        ([PICTURE] * 50, {}),
    ],
)
def test_what_a_decoder_that_was_taken_over_sends_reaches_no_model(arrays, changes):
    """Sizes decide what the model's replicas allocate, for everybody."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    job = Job(what="video", parts=[(0, 1)], fps=1, limits=MediaLimits.of(LIMITS))
    body = {"time_s": 0.5, "size": [4, 4]} | changes
    protocol.send(theirs, protocol.Message(what="sample", body=body, arrays=tuple(arrays)))
    with theirs, pytest.raises(MediaError, match="crashed"):
        list(Decoding(ours, job, "video").samples())


def test_a_decoder_that_sends_samples_without_end_is_cut_off():
    ours, theirs = socket.socketpair()
    job = Job(
        what="video",
        parts=[(0, 1)],
        fps=1,
        limits=MediaLimits.of(LIMITS.model_copy(update={"max_frames": 3})),
    )
    sample = protocol.Message(what="sample", body={"time_s": 0.5, "size": None}, arrays=(PICTURE, SECOND[:9]))
    for _ in range(4):
        protocol.send(theirs, sample)
    seen = []
    with theirs, pytest.raises(MediaError, match="crashed"):
        seen.extend(Decoding(ours, job, "video").samples())
    assert len(seen) <= 3


def test_the_decoder_sends_pictures_as_the_models_preprocessing_squashes_them(sandbox, make_video):
    preprocessor = Preprocessor(PreprocessConfig(image_size=32))
    upload = upload_of(make_video(2))
    displayed = list(sandbox.samples(upload).samples())
    for keep in (False, True):
        squashed = list(sandbox.samples(upload, squash_to=32, keep_pictures=keep).samples())
        for small, full in zip(squashed, displayed, strict=True):
            assert np.array_equal(small.picture, preprocessor.squash([full.picture])[0])
            assert small.size == full.picture.shape[:2]
            assert np.array_equal(small.displayed, full.picture) if keep else small.displayed is None
        (window,) = windows(squashed, num_frames=5)
        assert window.clip.size == displayed[0].picture.shape[:2]


def test_memory_does_not_grow_with_the_length_of_a_video(sandbox, make_video):
    """Ten minutes pass through in windows; their sound alone would take 38 MB."""
    long = upload_of(make_video(600, kind="matroska"))
    grown = []
    for upload in (upload_of(make_video(60, kind="matroska")), long):
        info = dict.fromkeys(("name", "version", "run_id", "data_digest", "sha256"), "x") | {"alias": None}
        head = AnswerHead(model=ModelInfo(**info), fps=1, threshold=0.5)
        writer = JsonWriter(head, ["background", "sounding"])
        for window in windows(sandbox.samples(upload).samples(), num_frames=5):
            for sample in window.samples:
                mask = (sample.picture[..., 0] > 128).astype(np.uint8)
                regions = regions_of(mask, np.full(mask.shape, 0.9))
                frame = SegmentedFrame(
                    index=0, time_s=sample.time_s, picture=None, size=mask.shape, regions=regions
                )
                writer.add(frame)
        grown.append(psutil.Process(os.getpid()).memory_info().rss)
        body = writer.finish(Timings(decode=0, model=0, encode=0, total=0))
    assert len(SegmentAnswer.model_validate_json(body.read()).frames) == 600
    assert grown[1] - grown[0] < 10e6


@pytest.mark.parametrize("kind", CODECS)
def test_the_files_that_are_damaged_can_be_read_before(kind):
    assert len(list(decode_video(small_video(kind), fps=1, limits=LIMITS))) == 2


@pytest.mark.slow
def test_damaged_files_never_crash_hang_or_leak():
    """The short form of `python -m sdavs_serve.tools.fuzz --files 5000`."""
    outcome = fuzz(num_files=300, seed=0, budget_s=patience(5))
    assert (outcome.leaked_descriptors, outcome.left_processes) == (0, 0)
    assert not [answer for answer in outcome.answers if "died" in answer], outcome
    assert outcome.answers["200"] > 0, "damage that always destroys a file reaches no decoder"
    assert outcome.answers["422 corrupt"] > 0
