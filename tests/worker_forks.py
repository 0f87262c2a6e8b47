"""Ray workers forked from one process that has imported torch, DeepSpeed and MLflow.

Each worker of a training imports for longer than most of these tests train. Workers of sweeps and of endpoints start
as usual.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODULES = (
    "deepspeed",
    "mlflow.tracking",
    "sqlalchemy",
    "pandas",
    "pyarrow.fs",
    "pyarrow.parquet",
    "matplotlib.pyplot",
    "sdavs_model.data.datasets",
    "sdavs_platform.config.tree",
)
"""Nothing of Ray, which reads the environment while it is imported: one second of the ten that all take."""


@contextlib.contextmanager
def forked_workers() -> Iterator[dict[str, Any]]:
    """Settings of a node whose workers are forked; none where there is a GPU, since CUDA does not survive a fork."""
    from forked_worker import __file__ as client
    from running import process

    if Path("/dev/nvidiactl").exists():
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "forked_worker.py")
        link.symlink_to(client)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}  # as workers have it
        with process([sys.executable, __file__, folder], env=environment):
            yield {"setup_worker_path": str(link)}


def serve(folder: str) -> tuple[list[str], dict[str, str], str]:
    """Answer requests until this process is killed; returns in each fork, with arguments, environment and folder."""
    from forked_worker import LIMIT

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"{folder}/socket")
    listener.listen(64)
    for name in MODULES:
        importlib.import_module(name)
    assert "ray" not in sys.modules
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, forget_ended_forks)
    while True:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        request, files, _, _ = socket.recv_fds(connection, LIMIT, 3)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        connection.detach()  # open until this process ends
        return json.loads(request)


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
    request = serve(sys.argv[1])
    sys.path.remove(str(Path(__file__).parent))  # of the tests, which workers do not import
    become_worker(*request)
