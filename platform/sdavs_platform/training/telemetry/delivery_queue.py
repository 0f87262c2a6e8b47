"""The queue of metrics and pictures for MLflow: an unavailable server delays them; none is lost or reordered."""

import threading
import time
from collections.abc import Callable

import requests

from sdavs_platform.tracking.runs import Point, TrainingRun

# MLflow's error codes where a server, a proxy or a locked database does not answer.
_AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")


class DeliveryQueue:
    """Sends from a background thread, so that training never waits for MLflow.

    Args:
        points: to send first: those that a checkpoint kept because they had not arrived.
        retry_seconds: between attempts while the server is away.
        send_seconds: longest time that a point waits for a `send`.
    """

    def __init__(
        self,
        run: TrainingRun,
        *,
        points: list[Point],
        retry_seconds: float = 5.0,
        send_seconds: float = 30.0,
    ) -> None:
        self._run = run
        self._points = points
        self._retry_seconds = retry_seconds
        self._send_seconds = send_seconds
        self._picture: Callable[[], None] | None = None
        self._is_due = False
        self._is_closing = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._deliver, name="delivery queue", daemon=True)
        self._thread.start()

    def put(self, point: Point) -> None:
        """Keep a point for the next `send`, or for the timer."""
        with self._changed:
            self._points.append(point)

    def send(self, picture: Callable[[], None] | None = None) -> None:
        """Start to deliver all points, and then call `picture`; a later one replaces a waiting one.

        Raises:
            MlflowException: MLflow refused what was sent before.
        """
        with self._changed:
            if self._error:
                raise self._error
            self._picture = picture or self._picture
            self._is_due = True
            self._changed.notify()

    def unsent(self) -> list[Point]:
        """The points that have not arrived."""
        with self._changed:
            return list(self._points)

    def close(self, *, patience_s: float = 600.0) -> None:
        """Deliver everything.

        Raises:
            RuntimeError: MLflow stayed away for `patience_s`.
            MlflowException: it refused something.
        """
        with self._changed:
            self._is_due = self._is_closing = True
            self._changed.notify()
        self._thread.join(patience_s)
        if self._thread.is_alive():
            raise RuntimeError(f"MLflow at {self._run.uri} did not respond for {patience_s:g} s")
        if self._error:
            raise self._error

    def _deliver(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_due, timeout=self._send_seconds)
                points, picture = list(self._points), self._picture
                self._is_due, self._picture = False, None
            try:
                if points:
                    self._run.log_points(points)
                    with self._changed:
                        del self._points[: len(points)]
                if picture:
                    picture()
            except Exception as error:
                if not _is_away(error):
                    self._error = error
                    return
                with self._changed:
                    self._is_due, self._picture = True, self._picture or picture
                time.sleep(self._retry_seconds)
                continue
            with self._changed:
                if self._is_closing and not self._is_due and not self._points:
                    return


def _is_away(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in _AWAY
    return isinstance(error, requests.ConnectionError | requests.Timeout | requests.HTTPError)
