"""From Ray's nested errors to the one line that says what went wrong."""

import ray.train

from sdavs_platform.training.faults.callbacks import VAIN


def root_cause(error: ray.train.TrainingFailedError) -> str:
    """The message of the worker that failed first.

    When one worker fails, the others lose their connection to it and fail too, so errors that name a file or
    a step (ValueError, FloatingPointError) are believed before any other.
    """
    if isinstance(error, ray.train.ControllerError):
        # Ours: see `GiveUp`.
        return _last_line(str(error.controller_failure))
    if not isinstance(error, ray.train.WorkerGroupError):
        return _last_line(str(error))
    causes = list(error.worker_failures.values())
    ours = [cause for cause in causes if isinstance(cause, VAIN)]
    cause = (ours or causes)[0]
    message = _last_line(str(cause))
    return message if ours else f"{type(cause).__name__}: {message}"


def _last_line(text: str) -> str:
    """A loader process wraps a whole traceback into its message; its last line is the message itself."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    line = lines[-1].strip() if lines else "no message"
    for name in ("ValueError: ", "FloatingPointError: "):
        line = line.removeprefix(name)
    return line
