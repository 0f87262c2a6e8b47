"""Run the demo's commands; their output goes to a log, to a callback, and into the error if one fails."""

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

from sdavs_platform.config.paths import CHECKOUT
from sdavs_platform.local.processes import Service, tail
from sdavs_platform.local.stack import Stack

Listen = Callable[[str], None]

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PREFIX = re.compile(r"^\([\w:.]+ pid=\d+[^)]*\) ")
"""The "(RayTrainWorker pid=123) " that Ray puts before the lines of another process."""


class Commands:
    """Runs commands of the environment in the checkout, against one stack."""

    def __init__(self, *, stack: Stack, home: Path) -> None:
        self._stack = stack
        self._logs = home / "logs"
        self._environment = {
            "MLFLOW_TRACKING_URI": stack.mlflow.uri,
            "SDAVS_HOME": str(home),
            "RAY_API_SERVER_ADDRESS": stack.ray.dashboard,
            "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads would starve the rest of a small machine
        }

    def run(
        self,
        name: str,
        *command: str,
        on_line: Listen = lambda line: None,
        answer: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Run `command`, whose first word is an executable of the environment, until it ends.

        Its output goes to logs/NAME.log and, without colours and prefixes, to `on_line`; with `answer`, standard
        output goes to that file instead. If this process is interrupted, the command is ended, too.

        Raises:
            RuntimeError: it failed; with the end of its output.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{name}.log"
        with log.open("w") as file, answer.open("w") if answer else contextlib.nullcontext() as output:
            process = subprocess.Popen(
                [str(Path(sys.executable).with_name(command[0])), *command[1:]],
                cwd=CHECKOUT,
                env=os.environ | self._environment | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output or subprocess.PIPE,
                stderr=subprocess.PIPE if output else subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            lines = process.stderr if output else process.stdout
            assert lines is not None
            with _ended_with_us(process):
                for line in lines:
                    file.write(line)
                    file.flush()
                    on_line(_PREFIX.sub("", _COLOURS.sub("", line)).strip())
                code = process.wait()
        if code:
            raise RuntimeError(f"`{' '.join(command)}` failed; the end of {log}:\n{tail(log)}")

    def submit(self, name: str, *entrypoint: str, on_line: Listen) -> None:
        """Run `ray job submit -- ENTRYPOINT` until it ends. If this process is interrupted, the job is stopped.

        Raises:
            RuntimeError: the job failed; with the end of its log.
        """
        job = f"{name}-{secrets.token_hex(4)}"
        options = ["--submission-id", job]
        if self._stack.ray.service is None:  # a Ray of ours has these in its environment
            shared = {key: self._environment[key] for key in ("MLFLOW_TRACKING_URI", "SDAVS_HOME")}
            options += ["--runtime-env-json", json.dumps({"env_vars": shared})]
        try:
            self.run(name, "ray", "job", "submit", *options, "--", *entrypoint, on_line=on_line)
        except KeyboardInterrupt:
            with contextlib.suppress(RuntimeError):  # it may not have reached the cluster yet
                self.run(f"{name}-stop", "ray", "job", "stop", job)
            raise


@contextlib.contextmanager
def _ended_with_us(process: subprocess.Popen[str]) -> Iterator[None]:
    service = Service(pid=process.pid, started=psutil.Process(process.pid).create_time())
    try:
        yield
    except BaseException:
        service.stop()
        raise
