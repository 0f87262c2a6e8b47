"""API keys: created here, shown once, stored as digests in a file that the endpoint rereads when it changes.

A key has 256 random bits, so one SHA-256 is enough: slow hashes protect passwords that can be guessed.
"""

import hashlib
import hmac
import json
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sdavs_platform.config.paths import state_folder
from sdavs_platform.config.serve import ServeConfig

from sdavs_model.files import write_atomically

Scope = Literal["segment", "admin"]
"""segment: send clips, query the model. admin: also the rollout and the metrics."""

SCOPES: tuple[Scope, ...] = get_args(Scope)


class Key(BaseModel):
    """Record of one key, without the key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    scope: Scope
    sha256: str
    created: float
    """Unix time."""
    note: str = ""
    """Who uses it."""
    expires: float | None = None
    """Unix time from which it is refused; None: never."""
    at_once: Annotated[int, Field(ge=1)] | None = None
    """Clips that it may have in work at once; None: as many as the endpoint admits."""
    per_minute: Annotated[int, Field(ge=1)] | None = None
    """Clips that it may send in a minute; None: any number."""
    per_day: Annotated[int, Field(ge=1)] | None = None
    """Clips that it may send in a day (UTC); None: any number."""

    def limits(self) -> str:
        """Its limits in one line; empty if it has none."""
        parts = [
            f"{value} {what}"
            for what, value in (
                ("at once", self.at_once),
                ("a minute", self.per_minute),
                ("a day", self.per_day),
            )
            if value is not None
        ]
        if self.expires is not None:
            ended = "expired" if time.time() >= self.expires else "expires"
            parts.append(f"{ended} {datetime.fromtimestamp(self.expires, UTC):%Y-%m-%d}")
        return ", ".join(parts)


class KeyFile:
    """The keys of an endpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_at: tuple[int, int] | None = None
        self._keys: tuple[Key, ...] = ()

    @classmethod
    def of(cls, config: ServeConfig) -> "KeyFile":
        """The key file of a config, else `keys.json` in the state folder."""
        return cls(Path(config.keys_file) if config.keys_file else state_folder() / "keys.json")

    def entries(self) -> tuple[Key, ...]:
        """All keys; none if there is no file.

        Raises:
            ValueError: the file is not a key file.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return ()
        if self._read_at != (status.st_mtime_ns, status.st_size):
            try:
                entries = json.loads(self.path.read_text())
                self._keys = tuple(Key.model_validate(entry) for entry in entries)
            except (json.JSONDecodeError, ValidationError) as error:
                # Not the message itself: it would quote the file.
                raise ValueError(f"{self.path}: not a key file ({type(error).__name__})") from None
            self._read_at = (status.st_mtime_ns, status.st_size)
        return self._keys

    def find(self, token: str) -> Key | None:
        """The record of a key, also of one that has expired; None if it is unknown."""
        digest = _digest(token)
        found: Key | None = None
        for key in self.entries():
            # All keys are compared, each in constant time, so that the time reveals nothing.
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def add(
        self,
        scope: Scope,
        *,
        note: str = "",
        days: float | None = None,
        at_once: int | None = None,
        per_minute: int | None = None,
        per_day: int | None = None,
    ) -> str:
        """Create a key. Only its digest is kept.

        Args:
            scope: what it is for.
            note: who uses it.
            days: after so many it expires; None: never.
            at_once: as in `Key`, like the other limits.

        Raises:
            ValueError: a limit is below 1, or `days` is not positive.
        """
        number, token, now = secrets.token_hex(4), f"sdavs_{secrets.token_urlsafe(32)}", time.time()
        limits = {"at_once": at_once, "per_minute": per_minute, "per_day": per_day}
        for name, value in {"days": days, **limits}.items():
            if value is not None and (value <= 0 if name == "days" else value < 1):
                raise ValueError(f"{name}: {value:g}; allowed: {'above 0' if name == 'days' else 'from 1'}")
        key = Key(
            id=number,
            scope=scope,
            sha256=_digest(token),
            created=now,
            note=note,
            expires=None if days is None else now + days * 86_400,
            **limits,
        )
        self._write((*self.entries(), key))
        return token

    def remove(self, number: str) -> None:
        """Remove a key; it stops working within a second.

        Raises:
            ValueError: there is no such key.
        """
        left = tuple(key for key in self.entries() if key.id != number)
        if len(left) == len(self.entries()):
            raise ValueError(
                f"{self.path}: no key {number}; there are: {', '.join(k.id for k in left) or 'none'}"
            )
        self._write(left)

    def _write(self, keys: tuple[Key, ...]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Without what is not set, so that older versions can still read the file.
        content = json.dumps([key.model_dump(exclude_none=True) for key in keys], indent=2) + "\n"
        write_atomically(self.path, content, private=True)


def keys_required(config: ServeConfig) -> bool:
    """Whether requests need a key: as configured, else unless only this machine can connect."""
    if config.require_keys is not None:
        return config.require_keys
    return not is_loopback(config.host)


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to an address."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
