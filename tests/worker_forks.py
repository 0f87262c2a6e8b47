"""Ray workers forked from one process that has imported torch, DeepSpeed and MLflow.

Each worker of a training and each replica of an endpoint imports for longer than most of these tests compute. All
processes of pytest share the server: it starts with the first cluster that forks, and ends with the pytest that the
user started.
"""

import contextlib
import fcntl
import gc
import importlib
import json
import os
import random
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = "SDAVS_TEST_FORKS_FOLDER"
"""The variable that names the folder of the server's socket."""

OWNER = "SDAVS_TEST_FORKS_OWNER"
"""The variable with the number of the process that the server ends with."""

MODULES = (
    "deepspeed",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracking",
    "pandas",
    "pyarrow.fs",
    "pyarrow.parquet",
    "matplotlib.pyplot",
    "torch._dynamo",
    "sdavs_model.data.datasets",
    "sdavs_model.lean_timm",
    "sdavs_platform.config.tree",
)
"""Nothing of Ray: its worker crashes in a process that was forked after Ray was imported."""


def offer_forks(folder: Path) -> None:
    """Let this process and those that it starts share one server in that folder, which ends with this process."""
    os.environ.setdefault(FOLDER, str(folder))
    os.environ.setdefault(OWNER, str(os.getpid()))


def forked_workers() -> dict[str, Any]:
    """Settings of a node whose workers are forked.

    None outside pytest, and where there is a GPU, since CUDA does not survive a fork.
    """
    from forked_worker import __file__ as client

    if FOLDER not in os.environ or Path("/dev/nvidiactl").exists():
        return {}
    folder = Path(os.environ[FOLDER])
    folder.mkdir(exist_ok=True)
    link = folder / "forked_worker.py"
    with (folder / "lock").open("w") as lock, (folder / "log").open("a") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not link.exists():
            root = Path(__file__).resolve().parents[1]
            paths = os.pathsep.join(map(str, (root, root / "platform", root / "serve")))
            # As workers have it.
            environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
            command = [sys.executable, __file__, str(folder), os.environ[OWNER]]
            subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                check=True,
            )
            link.symlink_to(client)
    return {"setup_worker_path": str(link)}


def ray_command(folder: Path) -> str:
    """An executable in that folder in place of Ray's: the workers of nodes that it starts are forked."""
    from ray_with_forks import __file__ as program

    settings = forked_workers()
    if not settings:
        return str(Path(sys.executable).with_name("ray"))
    command = shlex.join([sys.executable, program, settings["setup_worker_path"]])
    file = folder / "ray-with-forks"
    file.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    file.chmod(0o755)
    return str(file)


def serve(folder: str, owner: int) -> tuple[list[str], dict[str, str], str]:
    """Answer requests until the owner has ended; returns in each fork, with arguments, environment and folder."""
    from forked_worker import LIMIT

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"{folder}/socket")
    listener.listen(64)
    if os.fork():
        os._exit(0)  # who started this may connect now
    ended = os.pidfd_open(owner)
    for name in MODULES:
        importlib.import_module(name)
    assert "ray" not in sys.modules
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, forget_ended_forks)
    while ended not in select.select([listener, ended], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        os.setpgid(0, 0)  # Ray ends the whole group of a worker that has ended
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        os.close(ended)
        request, files, _, _ = socket.recv_fds(connection, LIMIT, 3)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        connection.detach()  # open until this process ends
        return json.loads(request)
    os._exit(0)


def forget_ended_forks(*_: object) -> None:
    """The handler of SIGCHLD."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def become_worker(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """What Ray's `setup_worker.py` and `default_worker.py` do."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # what Python has remembered
    random.seed()  # forks would draw the same numbers, of which Tune makes names
    from ray._private.runtime_env.context import RuntimeEnvContext
    from ray._private.utils import update_envs
    from ray._private.workers.setup_worker import parser

    known, rest = parser.parse_known_args(arguments)
    update_envs(RuntimeEnvContext.deserialize(known.serialized_runtime_env_context or "{}").env_vars)
    roots = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [root for root in roots if root and root not in sys.path]
    sys.argv = rest
    runpy.run_path(rest[0], run_name="__main__")


if __name__ == "__main__":
    request = serve(sys.argv[1], int(sys.argv[2]))
    sys.path.remove(str(Path(__file__).parent))  # of the tests, which workers do not import
    become_worker(*request)
