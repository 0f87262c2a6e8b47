"""The end of a command: exit statuses, errors in one line, and the traceback of a bug in a file.

0    done
1    failed
2    refused: wrong flags or config
130  interrupted by Ctrl-C
143  stopped by SIGTERM
"""

import sys
import textwrap
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from sdavs_platform.config.paths import state_folder

FAILED, REFUSED, INTERRUPTED = 1, 2, 130

SERVICES = {"mlflow": "MLflow", "ray": "Ray", "botocore": "S3"}
"""Packages whose own exceptions report a failed service, not a bug here."""


def run(
    main: Callable[[], int | None],
    *,
    expected: tuple[type[Exception], ...] = (),
    when_interrupted: str = "",
) -> int:
    """Call `main` and return the exit status. Errors are reported on stderr, each line after the command's name.

    Args:
        expected: exceptions, in addition to ValueError and OSError, whose message is written for the user.
        when_interrupted: what to know after Ctrl-C, such as how to continue.
    """
    try:
        return main() or 0
    except KeyboardInterrupt:
        complain(f"interrupted; {when_interrupted}" if when_interrupted else "interrupted")
        return INTERRUPTED
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except (ValueError, *expected) as error:  # type: ignore[misc]
        complain(str(error))
    except Exception as error:
        complain(f"{_what(error)}; the traceback is in {keep_traceback(error)}")
    return FAILED


def refuse(message: str) -> NoReturn:
    """Report wrong flags or a wrong config, and exit.

    Raises:
        SystemExit: always.
    """
    complain(message)
    sys.exit(REFUSED)


def complain(message: str) -> None:
    """Write a message to stderr, each line after the command's name."""
    print(textwrap.indent(message, f"{name()}: "), file=sys.stderr, flush=True)


def name() -> str:
    """The command's name, such as `train.py`."""
    return Path(sys.argv[0]).name


def keep_traceback(error: BaseException) -> Path:
    """Write the traceback to `logs` in the state folder; returns the file."""
    logs = state_folder() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    file = logs / f"traceback-{Path(name()).stem}-{time.strftime('%Y%m%d-%H%M%S')}.txt"
    file.write_text(f"{' '.join(sys.argv)}\n\n{''.join(traceback.format_exception(error))}")
    return file


def _what(error: Exception) -> str:
    kind = type(error).__name__
    # Ray wraps the error of a worker in one of its own, whose text begins with the name of the task.
    message = str(getattr(error, "cause", None) or error).strip().split("\n")[0]
    if service := SERVICES.get(type(error).__module__.split(".")[0]):
        return f"{service}: {message or kind}"
    return f"this is a bug in sdavs ({kind}: {message})" if message else f"this is a bug in sdavs ({kind})"
