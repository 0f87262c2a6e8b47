"""Install the locked environment into .venv; does nothing when it is current.

    python3 infra/local/bootstrap.py

Needs Python 3.11+ with venv, and nothing else: it runs before anything is installed. uv goes into .tools/uv; the
packages of requirements.lock and this project (editable) go into .venv. A stamp holds the digest of everything the
environment depends on. Two runs at once wait for each other.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

UV_VERSION = "0.13.8"
NEWEST_PYTHON = (3, 13)  # the newest for which torch, ray and deepspeed of the lock publish wheels
PYTHON = sys.version_info[:2]

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools" / "uv"
VENV = ROOT / ".venv"
STAMP = VENV / ".bootstrapped"
UV = TOOLS / "bin" / "uv"
RAY_COMMAND = ROOT / "infra" / "local" / "ray_command.py"


def main() -> None:
    check_python()
    import fcntl  # POSIX only, like Ray's cluster commands

    (ROOT / ".tools").mkdir(exist_ok=True)
    with (ROOT / ".tools" / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("bootstrap: another make is preparing the environment; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if STAMP.is_file() and STAMP.read_text() == wanted_stamp() and (VENV / "bin" / "python").exists():
            return
        started = time.monotonic()
        print("bootstrap: preparing the locked environment in .venv", flush=True)
        install_uv()
        install_environment()
        STAMP.write_text(wanted_stamp())
        print(f"bootstrap: ready after {time.monotonic() - started:.0f} s", flush=True)


def check_python() -> None:
    if not (3, 11) <= PYTHON <= NEWEST_PYTHON:
        sys.exit(
            f"bootstrap: Python 3.11 to {NEWEST_PYTHON[0]}.{NEWEST_PYTHON[1]} is needed, {sys.executable} is "
            f"{PYTHON[0]}.{PYTHON[1]}. Name another one: make PYTHON=python3.11 ..."
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        sys.exit(
            f"bootstrap: {sys.executable} lacks the standard modules venv and ensurepip, which Debian and "
            f"Ubuntu package apart.\n  Install them: apt-get install python{PYTHON[0]}.{PYTHON[1]}-venv"
        )


def wanted_stamp() -> str:
    """Digest of all that decides what the environment contains, with this folder and the Python version."""
    digest = hashlib.sha256(repr((str(ROOT), PYTHON)).encode())
    for path in (ROOT / "requirements.lock", ROOT / "pyproject.toml", Path(__file__), RAY_COMMAND):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def install_uv() -> None:
    found = subprocess.run([str(UV), "--version"], capture_output=True, text=True) if UV.exists() else None
    if found and found.returncode == 0 and found.stdout.split()[1] == UV_VERSION:
        return
    shutil.rmtree(TOOLS, ignore_errors=True)
    step("making .tools/uv", sys.executable, "-m", "venv", TOOLS)
    pip = (TOOLS / "bin" / "python", "-m", "pip", "--disable-pip-version-check")
    step(f"installing uv {UV_VERSION}", *pip, "install", "--quiet", f"uv=={UV_VERSION}")


def install_environment() -> None:
    python = VENV / "bin" / "python"
    probe = [str(python), "-c", f"import sys; sys.exit(sys.version_info[:2] != {tuple(PYTHON)})"]
    if not python.exists() or subprocess.run(probe).returncode:
        step("making .venv", UV, "venv", "--clear", "--quiet", "--python", sys.executable, VENV)
    STAMP.unlink(missing_ok=True)
    # A log needs no progress bar and no list of 200 packages; a terminal shows both.
    pip = (UV, "pip", *([] if sys.stderr.isatty() else ["--quiet"]))
    step(
        "installing the packages of requirements.lock (some 3 GB of downloads the first time)",
        *(*pip, "sync", "--python", python, "requirements.lock"),
    )
    step(
        "installing this project",
        *(*pip, "install", "--quiet", "--python", python, "--no-deps", "--editable", "."),
    )
    for name in ("ray", "serve"):
        (VENV / "bin" / name).write_text(f"#!{python}\n{RAY_COMMAND.read_text()}")


def step(title: str, *command: object) -> None:
    print(f"  {title}", flush=True)
    # uv would install into the VIRTUAL_ENV of the caller's shell.
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    if subprocess.run([str(part) for part in command], cwd=ROOT, env=environment).returncode:
        sys.exit(f"bootstrap: '{title}' failed; its message is above. Run the same make again.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
