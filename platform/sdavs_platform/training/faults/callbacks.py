"""What Ray Train's controller is asked to do differently: give up where a retry is vain, tell of validations only."""

from typing import Any

import ray.train

from sdavs_platform.training.checkpoints.listing import UNSCORED
from sdavs_platform.training.faults.notices import PreemptedError, StoppedError

VAIN = (ValueError, FloatingPointError)
"""Errors that come again when the training is repeated: bad files, a loss that is not finite."""


class GiveUp(ray.train.UserCallback):
    """Ends the training at once on an error that would come again, or a stop. Ray Train repeats after any error."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """See `ray.train.UserCallback`; what is raised here is not retried, except for a preemption."""
        for rank, cause in worker_exceptions.items():
            if isinstance(cause, PreemptedError):
                # At once, where Ray Train would train on until the node's end, for nothing: all is saved.
                # It is not counted as a failure.
                raise ray.train.PreemptionError(ray.train.PreemptionInfo(None, {}))
            if isinstance(cause, (*VAIN, StoppedError)):
                raise cause
            print(f"worker {rank} failed: {type(cause).__name__}: {cause}".splitlines()[0], flush=True)


class ValidationsOnly(ray.train.UserCallback):
    """Passes on the reports of validations, and keeps those of other checkpoints back."""

    def __init__(self, callback: ray.train.UserCallback) -> None:
        self._callback = callback

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """See `ray.train.UserCallback`."""
        if metrics[0]["val_miou"] != UNSCORED:
            self._callback.after_report(run_context, metrics, checkpoint)
