"""Fetch clips from shards when they are needed, into a local folder that keeps the most recently used ones.

The folder has the data set's own layout, so that all code that reads clips works unchanged: at first every picture and
sound is an empty file, and `Stream.hold` replaces it by the real one. The processes of a machine share the folder and
fetch a record once. A record that is in use is never removed.
"""

import fcntl
import hashlib
import io
import logging
import os
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sdavs_model.data.core.clip import ClipFiles
from sdavs_model.data.core.clip_set import ClipSet
from sdavs_model.data.core.workers import Progress, no_progress
from sdavs_model.files import composed, replacing
from sdavs_platform.storage.filesystem import Storage
from sdavs_platform.storage.shards import INDEX, TABLES, Index, Record, read_index

logger = logging.getLogger(__name__)

NUM_FETCHERS = 8
"""Our choice: requests at once; a request for a clip takes about as long as the way to the bucket and back."""

_PREPARED = ".prepared"
_RECORDS = ".records"
_HERE = b"here"


class Stream:
    """A data set in shards, as a folder.

    Args:
        storage: where the shards are.
        index: of these.
        cache: folder in which the data set gets a folder of its own, named after its index.
        max_bytes: that are kept here; None for no limit. What is used at this moment may exceed it.

    Attributes:
        folder: in the data set's layout.
        fetched_bytes: by this process.

    Raises:
        ValueError: the storage cannot be reached, or what is there is not what the index says; names the file.
    """

    def __init__(self, storage: Storage, index: Index, *, cache: Path, max_bytes: int | None = None) -> None:
        self.folder = cache / index.digest[:32]
        self.index = index
        self.fetched_bytes = 0
        self._uri = storage.uri
        self._storage, self._process = storage, os.getpid()
        self._max_bytes = max_bytes
        self._record_of = {path: n for n, record in enumerate(index.records) for path, *_ in record.files}
        self._unchecked = 0
        self._lock = threading.Lock()
        self._prepare()

    @contextmanager
    def hold(self, files: ClipFiles) -> Iterator[None]:
        """Context manager that fetches the files of a clip and keeps them on disk."""
        with ExitStack() as held:
            for number in self._needed(files):
                held.enter_context(self._held(number))
            yield

    def fetch_all(self, *, progress: Progress = no_progress) -> None:
        """Fetch every record; for a stream without limit."""
        total = len(self.index.records)

        def fetch(number: int) -> None:
            with self._held(number):
                pass

        with ThreadPoolExecutor(NUM_FETCHERS) as pool:
            for done, _ in enumerate(pool.map(fetch, range(total)), 1):
                progress("downloading", done, total)

    def __getstate__(self) -> dict[str, object]:
        # For loader processes, each of which opens the storage itself.
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_storage")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _lock=threading.Lock(), _process=-1)

    def _needed(self, files: ClipFiles) -> list[int]:
        paths = [*files.paths, *([files.objects] if files.objects else [])]
        names = [composed(path.relative_to(self.folder).as_posix()) for path in paths]
        return sorted({self._record_of[name] for name in names if name in self._record_of})

    @contextmanager
    def _held(self, number: int) -> Iterator[None]:
        """Context manager that fetches a record and keeps all processes from removing it."""
        descriptor = os.open(self._marker(number), os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            while not os.pread(descriptor, 1, 0):
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # of several processes one fetches
                if not os.pread(descriptor, 1, 0):
                    self._fetch(self.index.records[number])
                    os.pwrite(descriptor, _HERE, 0)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            os.utime(descriptor)  # what was used longest ago is removed first
            yield
        finally:
            os.close(descriptor)

    def _fetch(self, record: Record) -> None:
        content = self._opened().read_range(record.shard, record.offset, record.size)
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise ValueError(
                f"data.root: {self._uri}/{record.shard} differs from {INDEX} at byte {record.offset}; write it again"
            )
        for path, offset, size in record.files:
            with replacing(self.folder / path) as part:
                part.write_bytes(content[offset : offset + size])
                os.utime(part, (0, 0))  # it is the same file when it is fetched again
        with self._lock:
            self.fetched_bytes += record.size
            self._unchecked += record.size
            is_due = self._max_bytes is not None and self._unchecked > self._max_bytes // 20
            self._unchecked = 0 if is_due else self._unchecked
        if is_due:
            self._remove_oldest()

    def _remove_oldest(self) -> None:
        assert self._max_bytes is not None
        here = []
        for marker in (self.folder / _RECORDS).iterdir():
            stat = marker.stat()
            if stat.st_size:
                here.append((stat.st_mtime_ns, int(marker.name)))
        total = sum(self.index.records[number].size for _, number in here)
        for _, number in sorted(here):
            if total <= self._max_bytes:
                return
            total -= self._removed(number)

    def _removed(self, number: int) -> int:
        """Remove a record unless it is in use; returns its size, or 0."""
        descriptor = os.open(self._marker(number), os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            for path, *_ in self.index.records[number].files:
                with replacing(self.folder / path) as part:
                    part.touch()
            return self.index.records[number].size
        except BlockingIOError:
            return 0
        finally:
            os.close(descriptor)

    def _prepare(self) -> None:
        """Unpack the tables, and let all other files be there, empty."""
        if (self.folder / _PREPARED).is_file():
            return
        (self.folder / _RECORDS).mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (self.folder / _PREPARED).is_file():
                return
            content = self._opened().read(TABLES) or b""
            if hashlib.sha256(content).hexdigest() != self.index.tables["sha256"]:
                raise ValueError(f"data.root: {self._uri}/{TABLES} differs from {INDEX}; write it again")
            with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                tar.extractall(self.folder, filter="data")
            for folder in {(self.folder / path).parent for path in self._record_of}:
                folder.mkdir(parents=True, exist_ok=True)
            for path in self._record_of:
                (self.folder / path).touch()
            (self.folder / _PREPARED).touch()

    def _opened(self) -> Storage:
        """The storage, opened by the process that uses it: connections do not survive a fork."""
        if self._process != os.getpid():
            self._storage, self._process = Storage(self._uri, field="data.root"), os.getpid()
        return self._storage

    def _marker(self, number: int) -> Path:
        return self.folder / _RECORDS / str(number)


class Ahead:
    """Fetches clips in threads before they are needed."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(NUM_FETCHERS, thread_name_prefix="fetch")

    def fetch(self, clips: ClipSet, index: int) -> None:
        """Start to fetch a clip without waiting. Errors are raised when the clip is needed."""
        self._pool.submit(_fetch, clips, index)


def _fetch(clips: ClipSet, index: int) -> None:
    try:
        with clips.hold(clips.files[index]):
            pass
    except ValueError as error:
        logger.debug("could not be fetched ahead: %s", error)


def open_stream(root: str, *, cache: Path, max_bytes: int | None = None) -> Stream | None:
    """The data set at an address that holds shards; None if it does not."""
    storage = Storage(root, field="data.root")
    if not storage.exists(INDEX):
        return None
    return Stream(storage, read_index(storage), cache=cache, max_bytes=max_bytes)
