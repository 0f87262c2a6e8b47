"""Make the locked environment in .venv; does nothing when it is already there.

    python3 infra/local/bootstrap.py

Needs Python 3.11+ with venv, and nothing else. uv goes into .tools/uv, the packages of requirements.lock and this
project (editable) into .venv. A stamp holds the digest of everything the environment depends on, so it is remade
only when one of those changes. Two runs at once wait for each other. Standard library only: it runs before
anything is installed.
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

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools" / "uv"
VENV = ROOT / ".venv"
STAMP = VENV / ".bootstrapped"
UV = TOOLS / "bin" / "uv"
RAY_CLI_TOKEN = ROOT / "infra" / "local" / "ray_cli_token.pth"


def wanted_stamp():
    """Digest of all that decides what the environment contains, this folder and Python version included."""
    digest = hashlib.sha256()
    for path in (ROOT / "requirements.lock", ROOT / "pyproject.toml", Path(__file__), RAY_CLI_TOKEN):
        digest.update(path.read_bytes())
    digest.update(repr((str(ROOT), sys.version_info[:2])).encode())
    return digest.hexdigest()


def is_current():
    return STAMP.is_file() and STAMP.read_text() == wanted_stamp() and (VENV / "bin" / "python").exists()


def step(title, command):
    print("  " + title, flush=True)
    # VIRTUAL_ENV of the caller's shell would make uv install there.
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    if subprocess.run([str(part) for part in command], cwd=ROOT, env=environment).returncode:
        sys.exit("bootstrap: '%s' failed; its message is above. Run the same make again." % title)


def check_python():
    version = "%d.%d" % sys.version_info[:2]
    if not (3, 11) <= sys.version_info[:2] <= NEWEST_PYTHON:
        sys.exit(
            "bootstrap: Python 3.11 to %d.%d is needed, %s is %s. Name another one: make PYTHON=python3.11 ..."
            % (NEWEST_PYTHON + (sys.executable, version))
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        sys.exit(
            "bootstrap: %s lacks the standard modules venv and ensurepip, which Debian and Ubuntu package apart.\n"
            "  Install them: apt-get install python%s-venv" % (sys.executable, version)
        )


def install_uv():
    found = subprocess.run([UV, "--version"], capture_output=True, text=True) if UV.exists() else None
    if found and found.returncode == 0 and found.stdout.split()[1] == UV_VERSION:
        return
    shutil.rmtree(TOOLS, ignore_errors=True)
    step("making .tools/uv", [sys.executable, "-m", "venv", TOOLS])
    step(
        "installing uv " + UV_VERSION,
        [TOOLS / "bin" / "python", "-m", "pip", "install", "--quiet", "uv==" + UV_VERSION],
    )


def install_environment():
    python = VENV / "bin" / "python"
    probe = "import sys; print(sys.version_info[:2] == %r)" % (tuple(sys.version_info[:2]),)
    usable = python.exists() and subprocess.run([python, "-c", probe], capture_output=True, text=True)
    if not usable or usable.stdout.strip() != "True":
        step("making .venv", [UV, "venv", "--clear", "--quiet", "--python", sys.executable, VENV])
    STAMP.unlink(missing_ok=True)
    quiet = [] if sys.stderr.isatty() else ["--quiet"]  # a log needs no progress bar and no list of 200 lines
    step(
        "installing the packages of requirements.lock (2 GB of downloads the first time)",
        [UV, "pip", "sync", *quiet, "--python", python, "requirements.lock"],
    )
    step(
        "installing this project",
        [UV, "pip", "install", "--quiet", "--python", python, "--no-deps", "--editable", "."],
    )
    site_packages = VENV / "lib" / ("python%d.%d" % sys.version_info[:2]) / "site-packages"
    shutil.copy(RAY_CLI_TOKEN, site_packages / RAY_CLI_TOKEN.name)


def main():
    check_python()
    import fcntl

    (ROOT / ".tools").mkdir(exist_ok=True)
    with open(ROOT / ".tools" / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("bootstrap: another make is preparing the environment; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if is_current():
            return
        started = time.monotonic()
        print("bootstrap: preparing the locked environment in .venv", flush=True)
        install_uv()
        install_environment()
        STAMP.write_text(wanted_stamp())
        print("bootstrap: ready after %.0f s" % (time.monotonic() - started), flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
