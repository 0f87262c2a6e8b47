"""A Postgres server on the loopback address, from the system's packages, with its data in the state folder."""

import os
import pwd
import subprocess
from collections.abc import Mapping
from pathlib import Path

from sdavs_platform.config.paths import CHECKOUT
from sdavs_platform.local import processes
from sdavs_platform.local.processes import Service

START_LIMIT_S = 60.0
PACKAGES = Path("/usr/lib/postgresql")
USER = "mlflow"


def programs() -> Path:
    """The folder of the newest installed server's programs.

    Raises:
        RuntimeError: no server is installed; says how to get one.
    """
    found = sorted(PACKAGES.glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if not found:
        raise RuntimeError(
            f"no Postgres server is installed (looked in {PACKAGES}); "
            f"on Debian and Ubuntu: apt-get install postgresql"
        )
    return found[-1].parent


def login(*, port: int, password: str) -> dict[str, str]:
    """libpq's variables for a server of `start`, so that no password is on a command line."""
    return {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": USER, "PGPASSWORD": password}


def start(*, folder: Path, port: int, password: str) -> Service:
    """Start the server of `folder`, which is initialised on first use; returns at once, see `wait`.

    Postgres refuses to run as root, so for root it runs as its package's user `postgres`.

    Args:
        folder: holds the data and the log.
        password: password of the user `mlflow`; always the same for a folder.

    Raises:
        RuntimeError: no server is installed, or its user cannot reach the folder.
    """
    found, user = programs(), _user()
    if not (folder / "data" / "PG_VERSION").is_file():
        _make(found, folder, password=password, user=user)
    # The socket's folder relative to the data: a socket's whole path may have 107 characters at most.
    command = [str(found / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-k", "."]
    command += ["-c", "listen_addresses=127.0.0.1"]
    return processes.start(command, cwd=Path("/"), environment=os.environ, log=folder / "log", user=user)


def wait(service: Service, *, folder: Path, port: int, password: str) -> None:
    """Wait until the server responds and has MLflow's databases.

    Raises:
        RuntimeError: it ended, or did not answer in time; with the end of its log.
    """
    found = programs()
    ready = [str(found / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    processes.wait_until(
        lambda: subprocess.run(ready).returncode == 0,
        "Postgres",
        service=service,
        log=folder / "log",
        limit_s=START_LIMIT_S,
    )
    path = {"PATH": f"{found}{os.pathsep}{os.environ['PATH']}"}
    script = CHECKOUT / "infra" / "mlflow" / "create_databases.sh"
    _run("sh", script, environment=login(port=port, password=password) | path)


def stop(folder: Path) -> None:
    """Shut the server down cleanly without waiting for its clients to disconnect."""
    _run(programs() / "pg_ctl", "-D", folder / "data", "-m", "fast", "-w", "stop", user=_user())


def _make(found: Path, folder: Path, *, password: str, user: str | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    secret = folder / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    if user:
        for path in (folder, secret):
            os.chown(path, pwd.getpwnam(user).pw_uid, -1)
        if subprocess.run(["test", "-w", str(folder)], user=user, extra_groups=[], cwd="/").returncode:
            raise RuntimeError(
                f"{folder}: Postgres must run as the user {user}, who cannot reach it; "
                f"set SDAVS_HOME to a folder outside of private ones"
            )
    access = ("-U", USER, "-A", "scram-sha-256", "--pwfile", secret)
    try:
        _run(found / "initdb", "-D", folder / "data", *access, user=user)
    finally:
        secret.unlink()


def _run(*words: str | Path, user: str | None = None, environment: Mapping[str, str] | None = None) -> None:
    ran = subprocess.run(
        [str(word) for word in words],
        user=user,
        cwd="/",
        env=os.environ | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=120,
    )
    if ran.returncode:
        raise RuntimeError(f"{words[0]} failed:\n{ran.stdout}{ran.stderr}")


def _user() -> str | None:
    """The user to run as; None for the current one."""
    return "postgres" if os.geteuid() == 0 else None
