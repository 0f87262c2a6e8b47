"""Undocumented parts of Ray that this project uses, as read in Ray 2.60.0.

Each function says why no documented way serves, and has a test in tests/platform/test_ray_internals.py: an upgrade of
Ray that breaks one fails there and is repaired here. Ray is imported inside the functions, because that takes
seconds and some callers want no more than a name.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMESPACE = b"sdavs"
"""Namespace of all our keys in Ray's key-value store; related keys have a common prefix."""

CHECKPOINT_LIST = "checkpoint_manager_snapshot.json"
"""Ray Train's list of the checkpoints of a run, in the run's folder. Without it nothing can be resumed. Its content is
read through `ray.train.Result.from_path`; the name answers, without Ray, whether there is anything to read."""

STORAGE_MARKER = ".validate_storage_marker"
"""Ray Train writes this empty file into a run's folder at every start. Writing it first finds storage that refuses,
for which Ray Train reports a dead actor, and adds no file of our own."""


# The key-value store of Ray's head (`ray.experimental.internal_kv`). It outlives every process but the head, and with a
# fault-tolerant head that one, too. Ray documents named actors for shared state, which are lost with their process.


def kv_put(key: str, value: str | bytes, *, overwrite: bool = True) -> bool:
    """Store a value; returns whether the key existed. With `overwrite=False` an existing value stays."""
    from ray.experimental.internal_kv import _internal_kv_put

    return _internal_kv_put(key, value, overwrite=overwrite, namespace=NAMESPACE)


def kv_get(key: str) -> bytes | None:
    """The value of a key; None if there is none."""
    from ray.experimental.internal_kv import _internal_kv_get

    return _internal_kv_get(key, namespace=NAMESPACE)


def kv_keys(prefix: str) -> list[str]:
    """All keys with a prefix, in no order."""
    from ray.experimental.internal_kv import _internal_kv_list

    return [key.decode() for key in _internal_kv_list(prefix, namespace=NAMESPACE)]


def kv_delete(key: str) -> None:
    """Remove a key; one that is not there is no error."""
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(key, namespace=NAMESPACE)


# Ray Train, in a worker.


def is_preempted() -> bool:
    """Whether Ray Train has notified this worker that a node of its group is about to be drained.

    `ray.train.get_preemption_info` reports the same to all workers at once, through an actor that they all wait for: a
    round trip in every step. Our workers agree in a collective that overlaps the step (`training.faults.notices`).
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None


def fail_worker(error: Exception) -> None:
    """Report an error of this worker from another thread than the training's, which may hang.

    Ray Train does so itself for background uploads that fail. An error can otherwise only be raised in the training
    thread, and a process that ends by itself takes its message along.
    """
    from ray.train.v2._internal.execution.context import get_train_context
    from ray.train.v2._internal.util import construct_user_exception_with_traceback

    failures = get_train_context().execution_context.training_thread_runner.get_exception_queue()
    failures.put(construct_user_exception_with_traceback(error))


# Ray Train, in its controller.


def keep_newest_checkpoints(number: int) -> None:
    """Let Ray Train's controller, in whose process this is called, also keep the `number` newest checkpoints.

    `ray.train.CheckpointConfig` keeps those with the best scores and a single newest one, which may be damaged.
    """
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager

    delete_old = getattr(CheckpointManager, "sdavs_original", None)
    if delete_old is None:
        delete_old = CheckpointManager._save_state_and_delete_old_checkpoints
        CheckpointManager.sdavs_original = delete_old  # type: ignore[attr-defined]

    def delete_older(self: Any) -> None:
        # Ray deletes no checkpoint whose validation is pending; the list that it writes has to be without our entries.
        index = self._checkpoint_to_report_index
        newest = sorted(self._checkpoint_results, key=lambda result: index[result.checkpoint])[-number:]
        ours = {each.checkpoint: (each, True) for each in newest}
        pending = self._pending_training_results
        self._pending_training_results = ours | pending
        write = self._write_state_to_storage

        def write_without_ours() -> None:
            self._pending_training_results = pending
            write()

        self._write_state_to_storage = write_without_ours
        try:
            delete_old(self)
        finally:
            self._pending_training_results = pending
            del self._write_state_to_storage

    CheckpointManager._save_state_and_delete_old_checkpoints = delete_older  # type: ignore[method-assign]


# Ray Train, from outside.


def abort_training(controller: Any) -> None:
    """End a training and give its workers back. Blocking.

    `fit` can only be interrupted in the main thread, and a sweep's trial runs it in another one.

    Args:
        controller: the training's actor: `ray.get_runtime_context().current_actor` in a `ray.train.UserCallback`.
    """
    import ray

    # It ends itself when it has given everything back.
    with contextlib.suppress(ray.exceptions.RayActorError):
        ray.get(controller.abort.remote())


# Serve's HTTP proxy.


PROXY_MIDDLEWARES = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
"""Environment variable of a node: MODULE:FUNCTION that returns the ASGI middlewares of its HTTP proxy. Serve's
declarative config has no key for them."""


FORCE_STOP_UNHEALTHY = "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS"
"""Environment variable of the node with Serve's controller: with 1, a replica that failed its health checks is killed.
Otherwise Serve asks it to finish its requests, which one that hangs never does, and it keeps its GPU for as long as
`graceful_shutdown_timeout_s`."""


def abort_connection(send: Any) -> None:
    """Close the connection behind an ASGI `send` of uvicorn, Serve's HTTP server, at once.

    ASGI offers nothing for a client that does not read: `send` just waits, and a server that closes a connection writes
    what is in its buffer first.
    """
    send.__self__.transport.abort()


# A Ray head of this machine.


def dashboard_headers() -> dict[str, str]:
    """The headers that Ray's dashboard requires; empty where it requires none.

    Ray's clients send them, but those clients follow RAY_ADDRESS and proxies of the environment, whatever address they
    are given.
    """
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    return get_auth_headers_if_auth_enabled({})


def latest_cluster_file() -> Path:
    """Where `ray start` notes the cluster that `ray.init()` joins; a note of a dead one makes it wait."""
    from ray._common.utils import get_ray_address_file

    return Path(get_ray_address_file(None))


@contextlib.contextmanager
def private_cluster_address() -> Iterator[str]:
    """HOST:PORT that a cluster will have which `ray.init(address="local")` starts in this context.

    `ray.init` has no argument for the port of the head, and the address is wanted in the runtime environment that it is
    given. `ray start` documents the port; this variable is how it reaches the node.
    """
    import ray
    from ray._private.ray_constants import GCS_PORT_ENVIRONMENT_VARIABLE

    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    before = os.environ.get(GCS_PORT_ENVIRONMENT_VARIABLE)
    os.environ[GCS_PORT_ENVIRONMENT_VARIABLE] = str(port)
    try:
        yield f"{ray.util.get_node_ip_address()}:{port}"
    finally:
        if before is None:
            del os.environ[GCS_PORT_ENVIRONMENT_VARIABLE]
        else:
            os.environ[GCS_PORT_ENVIRONMENT_VARIABLE] = before
