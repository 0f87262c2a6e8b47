"""Ray's token authentication: enabled for every Ray that the demo starts, without action of the user.

Ray guards the dashboard, the jobs API and its RPCs with the token of ~/.ray/auth_token. `ray start` turns
that on when the file exists, and the first local `ray.init()` writes it; but clients (`ray job submit`) send the
token only with RAY_AUTH_MODE=token, and get a 401 without. So programs here send the token if there is one, and
so does the `ray` command of the environment (`infra/local/ray_command.py`).
"""

import os
import subprocess
import sys
from pathlib import Path

MODE = "RAY_AUTH_MODE"


def has_token() -> bool:
    """Whether Ray would find a token: variable, named file, or the default file."""
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or _token_file().is_file()


def _token_file() -> Path:
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(path) if path else Path.home() / ".ray" / "auth_token"


def send_token_if_any() -> None:
    """Let Ray clients of this process send the token; call before `import ray`. A mode that the user set is kept."""
    if has_token():
        os.environ.setdefault(MODE, "token")


def require_token() -> None:
    """Make sure that a Ray started from here is authenticated, unless the user chose another mode.

    Ray's own command writes the file; the mask keeps it from being readable by others.
    """
    os.environ.setdefault(MODE, "token")
    if os.environ[MODE] == "token" and not has_token():
        command = [str(Path(sys.executable).with_name("ray")), "get-auth-token", "--generate"]
        subprocess.run(command, check=True, capture_output=True, umask=0o077)
