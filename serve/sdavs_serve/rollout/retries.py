"""Retries of temporary failures: an unreachable network, memory that another process is about to free."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger("ray.serve")

T = TypeVar("T")

PAUSES_S = (1.0, 5.0)
"""Before the second and the third attempt. Our choice."""


def with_retries(work: Callable[[], T], *, what: str, pauses_s: tuple[float, ...] = PAUSES_S) -> T:
    """The result of `work`, called again after errors that may pass. Blocking.

    A ValueError says that a version is not what was registered, and is final; a `DownloadError` is not, nor is any
    other error.

    Args:
        work: what to call.
        what: its name in the log.
        pauses_s: before each further attempt.

    Raises:
        Exception: that of the last attempt.
    """
    # Here, because the app is built without MLflow, which takes seconds to import.
    from sdavs_platform.tracking.registry import DownloadError

    for pause_s in pauses_s:
        try:
            return work()
        except Exception as error:
            if isinstance(error, ValueError) and not isinstance(error, DownloadError):
                raise
            logger.warning("%s: %s: %s; trying again in %g s", what, type(error).__name__, error, pause_s)
            time.sleep(pause_s)
    return work()
