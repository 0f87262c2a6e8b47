"""Storage that is away for a while: Ray Train repeats what fails in workers, and this what fails in its controller."""

import time
from collections.abc import Callable
from typing import Any

import ray.train

from sdavs_platform.storage.filesystem import require_writable

PATIENCE_S = 300.0
"""Our choice: how long storage may be away; a server's restart, or its machine's, takes less."""
_ASK_S = 5.0


def fit_through_outages(
    fit: Callable[[], Any], *, max_failures: int, uri: str, name: str, say: Callable[[str], None]
) -> Any:
    """What `fit` returns; called again, once the storage can be written, when the controller could not write to it.

    The controller writes the list of checkpoints, and gives up at the first error. What is called again goes on from
    the newest checkpoint of the list, as the same command would.

    Args:
        max_failures: how often it is called again.
        uri: the storage.
        name: of the training.
        say: told of each time.

    Raises:
        TrainingFailedError: of `fit`, with another cause or once too often.
        ValueError: the storage stayed away for `PATIENCE_S`.
    """
    for failures in range(max_failures + 1):
        try:
            return fit()
        except ray.train.ControllerError as error:
            if not isinstance(error.controller_failure, OSError) or failures == max_failures:
                raise
            say(f"{name}: the storage failed; going on when it can be written: {error.controller_failure}")
        _await_storage(uri, name)
    raise AssertionError("the last failure is raised")


def _await_storage(uri: str, name: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            require_writable(uri, name)
            return
        except ValueError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_ASK_S)
