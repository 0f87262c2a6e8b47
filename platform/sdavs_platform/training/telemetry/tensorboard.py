"""A training's metrics as TensorBoard event files in the storage, next to its checkpoints."""

import logging
import tempfile
import time
from pathlib import Path
from typing import Any

from sdavs_platform.storage.filesystem import Storage
from sdavs_platform.tracking.runs import Point

logger = logging.getLogger(__name__)

UPLOAD_S = 30.0
"""Our choice: seconds between uploads; a bucket takes no additions, so each one sends the file again."""


class TensorBoard:
    """Writes points to a file of this process and sends it to the storage now and then.

    TensorBoard joins the files of all restarts, and drops what an earlier one wrote after the step of the resume.

    Args:
        storage: address of the training's folder; files go to its folder `tensorboard`.
        step: of the checkpoint that the training resumes from; 0 for a new one.
    """

    def __init__(self, storage: str, *, step: int, upload_s: float = UPLOAD_S) -> None:
        from tensorboardX.event_file_writer import (
            EventsWriter,
        )  # takes seconds, and most trainings do without
        from tensorboardX.proto.event_pb2 import SessionLog

        self._storage = Storage(storage, field="storage.uri")
        self._scratch = tempfile.TemporaryDirectory(prefix="sdavs-tensorboard-")
        # Not `SummaryWriter`, whose thread may hold events back when a file is sent.
        self._writer = EventsWriter(f"{self._scratch.name}/events", f".after-step-{step}")
        if step:
            self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))
        self._upload_s = upload_s
        self._uploaded_at = time.monotonic()

    def add(self, point: Point) -> None:
        """Write the values of one step."""
        from tensorboardX.proto.summary_pb2 import Summary

        step, values = point
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=Summary(value=scalars))
        if time.monotonic() - self._uploaded_at > self._upload_s:
            self._upload()

    def close(self) -> None:
        """Send what has not been sent."""
        self._upload()
        self._writer.close()
        self._scratch.cleanup()

    def _write(self, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(wall_time=time.time(), **content))

    def _upload(self) -> None:
        self._uploaded_at = time.monotonic()
        self._writer.flush()
        try:
            for file in Path(self._scratch.name).iterdir():
                self._storage.write(f"tensorboard/{file.name}", file.read_bytes())
        except ValueError as error:
            # The next upload sends everything, and MLflow has the same points.
            logger.warning("could not upload the TensorBoard files: %s", error)
