"""Limits of single API keys: requests at once, a minute and a day.

Counted by each ingress replica for itself, like `max_requests`, and from zero when it starts.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sdavs_serve.errors import RequestError
from sdavs_serve.http.keys import Key

DAY_S = 86_400


@dataclass(kw_only=True)
class _Used:
    at_once: int = 0
    tokens: float = 0.0
    """Requests that may be made now; `per_minute` of them after a pause of a minute."""
    filled_at: float = -math.inf
    day: int = 0
    """Days since 1970, UTC."""
    today: int = 0


class KeyLimits:
    """What each key has used."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            clock: Unix time.
        """
        self._clock = clock
        self._used: dict[str, _Used] = {}

    def begin(self, key: Key) -> None:
        """Count a request, which `end` ends.

        Raises:
            RequestError: 429, it is one too many; nothing is counted.
        """
        used, now = self._used.setdefault(key.id, _Used()), self._clock()
        if used.day != now // DAY_S:
            used.day, used.today = int(now // DAY_S), 0
        if key.at_once is not None and used.at_once >= key.at_once:
            raise _exceeded(key, "at_once", f"{key.at_once} requests at once", retry_after_s=1)
        if key.per_day is not None and used.today >= key.per_day:
            midnight = datetime.fromtimestamp((used.day + 1) * DAY_S, UTC)
            left = math.ceil(midnight.timestamp() - now)
            raise _exceeded(key, "per_day", f"{key.per_day} requests a day (UTC)", retry_after_s=left)
        if key.per_minute is not None:
            earned = (now - used.filled_at) * key.per_minute / 60
            used.tokens, used.filled_at = min(key.per_minute, used.tokens + max(0.0, earned)), now
            if used.tokens < 1:
                left = math.ceil((1 - used.tokens) * 60 / key.per_minute)
                what = f"{key.per_minute} requests a minute"
                raise _exceeded(key, "per_minute", what, retry_after_s=max(1, left))
            used.tokens -= 1
        used.at_once += 1
        used.today += 1

    def end(self, key: Key, *, status: int) -> None:
        """The request is over. One that the endpoint could not serve (429, 5xx) does not count for the day."""
        used = self._used[key.id]
        used.at_once -= 1
        if status == 429 or status >= 500:
            used.today = max(0, used.today - 1)


def _exceeded(key: Key, limit: str, what: str, *, retry_after_s: int) -> RequestError:
    return RequestError(
        status=429,
        kind="key_limit",
        detail=f"key {key.id} may send {what}",
        limit=limit,
        retry_after_s=retry_after_s,
    )
