"""Retries of a training after failures and outages, and the one-line reason why it ended.

Ray Train restarts all workers after an error of any of them, also after an upload that failed too often, and ends after
an error of its controller. `EndWithoutRetry` ends the training where the error would come again;
`fit_through_outages` waits for the storage and starts again where the controller could not write to it.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import ray.train

from sdavs_platform import console
from sdavs_platform.storage.filesystem import require_writable
from sdavs_platform.training.faults.notices import PreemptedError, StoppedError

logger = logging.getLogger(__name__)

NOT_RETRIED = (ValueError, FloatingPointError)
"""Errors that a retry would meet again: bad files, a loss that is not finite."""

OUTAGE_S = 300.0
"""Our choice: how long the storage may be unavailable; restarting a server or its machine takes less."""
_RETRY_S = 5.0


class EndWithoutRetry(ray.train.UserCallback):
    """Ends the training at once on an error that would recur, or on a stop request."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """See `ray.train.UserCallback`; what is raised here is not retried, except for a preemption."""
        console.configure()  # this runs in the controller's process
        for rank, error in worker_exceptions.items():
            if isinstance(error, PreemptedError):
                # Restart at once: Ray Train alone would train until the node ends, and lose those steps. All is saved.
                # It is not counted as a failure.
                raise ray.train.PreemptionError(ray.train.PreemptionInfo(None, {}))
            if isinstance(error, (*NOT_RETRIED, StoppedError)):
                raise error
            logger.info(f"worker {rank} failed: {type(error).__name__}: {error}".splitlines()[0])


def root_cause(error: ray.train.TrainingFailedError) -> str:
    """The message of the worker that failed first.

    When one worker fails, the others lose their connection to it and fail too, so errors that name a file or a step
    (ValueError, FloatingPointError) come before any other.
    """
    if isinstance(error, ray.train.ControllerError):
        # Raised by `EndWithoutRetry`.
        return _last_line(str(error.controller_failure))
    if not isinstance(error, ray.train.WorkerGroupError):
        return _last_line(str(error))
    causes = list(error.worker_failures.values())
    ours = [cause for cause in causes if isinstance(cause, NOT_RETRIED)]
    cause = (ours or causes)[0]
    message = _last_line(str(cause))
    return message if ours else f"{type(cause).__name__}: {message}"


def fit_through_outages(fit: Callable[[], Any], *, max_failures: int, uri: str, name: str) -> Any:
    """What `fit` returns; called again, once the storage can be written, when the controller could not write to it.

    The controller writes the list of checkpoints and gives up at the first error. Called again, it resumes from the
    newest checkpoint of the list, as the same command would.

    Args:
        max_failures: how often it is called again.
        uri: the storage.
        name: of the training.

    Raises:
        TrainingFailedError: of `fit`, with another cause or once too often.
        ValueError: the storage stayed away for `OUTAGE_S`.
    """
    for failures in range(max_failures + 1):
        try:
            return fit()
        except ray.train.ControllerError as error:
            if not isinstance(error.controller_failure, OSError) or failures == max_failures:
                raise
            logger.info(
                "%s: the storage failed; resuming when it can be written: %s", name, error.controller_failure
            )
        _await_storage(uri, name)
    raise AssertionError("the last failure is raised")


def _await_storage(uri: str, name: str) -> None:
    deadline = time.monotonic() + OUTAGE_S
    while True:
        try:
            require_writable(uri, name)
            return
        except ValueError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_S)


def _last_line(text: str) -> str:
    """A loader process wraps a whole traceback into its message; its last line is the message itself."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    line = lines[-1].strip() if lines else "no message"
    for name in ("ValueError: ", "FloatingPointError: "):
        line = line.removeprefix(name)
    return line
