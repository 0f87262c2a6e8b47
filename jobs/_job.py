"""Start and end of every job: import path, logging, Ray's token, error format, exit status."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TextIO

CHECKOUT = Path(__file__).resolve().parents[1]

_redirected: dict[str, TextIO] = {}
"""The standard output of a job that redirects it, under "stdout"."""


def run_job(
    main: Callable[[], int | None],
    *,
    logs_to_stderr: bool = False,
    expected: tuple[type[Exception], ...] = (),
    when_interrupted: str = "",
) -> NoReturn:
    """Call `main` with this checkout on the path, Ray's token and logging configured; exit with its status.

    Args:
        logs_to_stderr: standard output holds only what `print_result` prints. Everything else goes to standard error,
            also what libraries print, such as Ray the errors of processes.
        expected, when_interrupted: see `sdavs_platform.command.run`.
    """
    use_this_checkout()
    from sdavs_platform import command, console
    from sdavs_platform.local.token import send_token_if_any

    send_token_if_any()
    console.configure(to_stderr=logs_to_stderr)
    if logs_to_stderr:
        _redirected["stdout"], sys.stdout = sys.stdout, sys.stderr
    sys.exit(command.run(main, expected=expected, when_interrupted=when_interrupted))


def print_result(text: str) -> None:
    """Print what the user asked for."""
    print(text, file=results(), flush=True)


def results() -> TextIO:
    """The standard output, also of a job that redirects everything else."""
    return _redirected.get("stdout", sys.stdout)


def use_this_checkout() -> None:
    """Import from this checkout, here and in child processes and Ray's workers.

    An installed project needs none of this. `ray job submit --working-dir .` does: Ray puts only the root of the
    upload on the path, so `sdavs_platform` would be missing, or come from another, installed checkout.
    """
    roots = [str(CHECKOUT), str(CHECKOUT / "platform"), str(CHECKOUT / "serve")]
    sys.path[:0] = roots
    others = [
        path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in roots
    ]
    os.environ["PYTHONPATH"] = os.pathsep.join(roots + others)
