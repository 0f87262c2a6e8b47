"""Join or start a Ray cluster, and refuse at once a config that does not fit into it."""

import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from sdavs_platform.config.tree import ClusterConfig, RunConfig
from sdavs_platform.ray_internals import latest_cluster_file, private_cluster_address

STORAGE_VARIABLES = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"),
)
"""Location of the storage and of its keys. The keys themselves are not passed on, because the dashboard shows what is;
each node has its own, in a file or from its role."""

NETWORK_VARIABLES = ("NCCL_", "TORCH_NCCL_", "GLOO_", "FI_", "UCX_")
"""Prefixes of variables that configure how collectives reach other nodes (FI_: libfabric, for EFA)."""

logger = logging.getLogger(__name__)

CONNECT_LIMIT_S = 5.0

HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What a client of HTTP/2, and so of gRPC, begins with (RFC 9113, 3.4): the preface and empty settings."""

HTTP2_SETTINGS = 4
"""Type of the server's reply frame, in its fourth byte."""


@contextlib.contextmanager
def joined_cluster(
    config: RunConfig, *, prints_workers: bool = True, memory_bytes: int | None = None
) -> Iterator[None]:
    """Context manager that connects this process to a Ray cluster, and prints all output before it disconnects.

    Args:
        prints_workers: show here what the workers print.
        memory_bytes: what can be reserved in a private cluster (default: what this machine has).

    Raises:
        ValueError: see `connect`.
    """
    was_part = ray.is_initialized()
    connect(config, prints_workers=prints_workers, memory_bytes=memory_bytes)
    try:
        yield
    finally:
        if not was_part:
            ray.shutdown()


def connect(config: RunConfig, *, prints_workers: bool = True, memory_bytes: int | None = None) -> None:
    """Join the cluster of this job or of this machine; without one start a private one.

    Raises:
        ValueError: `cluster.address` or RAY_ADDRESS is set, and no cluster there can be joined.
    """
    if ray.is_initialized():
        return
    # Train would send each line that a worker prints twice: once as output, once as a log record.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    # Between Ray Train's looks at the workers. Its 2 seconds are most of what `ray job stop` waits before it kills,
    # and a checkpoint counts from such a look on.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    if config.cluster.min_workers < config.cluster.max_workers:
        # Ray Train's view of the cluster is up to 20 seconds old: after a node's end it still plans with it, and would
        # then wait a minute for resources that are not there before it looks again.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    # `ray job submit --runtime-env-json` may have set some of the same variables, such as SDAVS_HOME.
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    environment = worker_environment(config)
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": prints_workers}
    address = _address_to_join(config.cluster.address)
    if address == "auto":
        try:
            ray.init(address=address, **options)
        except ConnectionError:
            address = None
    elif address is not None:
        try:
            ray.init(address=address, **options)
        except (ConnectionError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(f"cluster.address: cannot join the Ray cluster at {address}: {reason}") from None
    if address is None:
        _use_passing_token()
        # Ray Train asks "the cluster of this machine" whether its controller is alive. Where there are two clusters it
        # may ask the wrong one, and end the training: so the workers get the address, which is chosen here.
        with private_cluster_address() as environment["RAY_ADDRESS"]:
            ray.init(address="local", _memory=memory_bytes, **options, runtime_env={"env_vars": environment})
        return
    # Join again with the address in the workers' environment, for the same reason.
    address = ray.get_runtime_context().gcs_address
    ray.shutdown()
    environment["RAY_ADDRESS"] = address
    ray.init(address=address, **options, runtime_env={"env_vars": environment})


def _address_to_join(configured: str | None) -> str | None:
    """HOST:PORT, or "auto" for the cluster of this machine; None to start a private one.

    Ray waits for minutes for an address that is not in use, so it is tried here first.

    Raises:
        ValueError: nothing listens at the address.
    """
    if configured == "local":
        return None
    if configured not in (None, "auto"):
        assert configured is not None
        return _in_use(configured, "cluster.address")
    if (inherited := os.environ.get("RAY_ADDRESS", "auto")) not in ("", "auto"):
        return _in_use(inherited, "RAY_ADDRESS")
    record = latest_cluster_file()
    if record.is_file():
        latest = record.read_text().strip()
        try:
            _in_use(latest, str(record))
        except ValueError:
            logger.warning("the Ray cluster at %s has ended; starting a private one", latest)
            return None
    return "auto"


def _in_use(address: str, source: str) -> str:
    """The address, if something listens there.

    Args:
        source: where the address comes from, for the message.

    Raises:
        ValueError: no Ray head listens there, or it is no address.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise ValueError(
            f"{source}: {address} is not an address of a Ray cluster; allowed: HOST:PORT, auto, local"
        )
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_LIMIT_S) as connection:
            speaks_grpc = os.environ.get("RAY_USE_TLS") == "1" or _speaks_grpc(connection)
    except (OSError, OverflowError) as error:
        raise ValueError(f"{source}: no Ray cluster at {address}: {error}") from None
    if not speaks_grpc:
        raise ValueError(f"{source}: no Ray cluster at {address}: another program listens there")
    return address


def _speaks_grpc(connection: socket.socket) -> bool:
    """Whether the other side responds like Ray's head; a dashboard or another program on the port does not."""
    connection.sendall(HTTP2_HELLO)
    try:
        with connection.makefile("rb") as answer:
            return answer.read(4)[3:] == bytes([HTTP2_SETTINGS])
    except ConnectionError:
        return False


def _use_passing_token() -> None:
    """Protect a private cluster with a token that is deleted with it.

    Left alone Ray would write one to ~/.ray, and from then on every `ray start` would ask for a token that
    `ray job submit` does not send. A token that is there already is used as it is.
    """
    if not (Path.home() / ".ray" / "auth_token").exists() and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def worker_environment(config: RunConfig) -> dict[str, str]:
    """Environment of all worker processes: the same code, and libraries that behave with and without GPUs."""
    environment = {
        "OMP_NUM_THREADS": str(config.cluster.cpus_per_worker),
        # Without GPUs Ray must not touch CUDA_VISIBLE_DEVICES.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # How long Ray Train waits for the workers of a failed group to leave their process group before it kills them.
        # One that hangs, or is stopped, never leaves, which would cost 30 seconds.
        "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
    }
    if config.cluster.use_gpu is False:
        environment["DS_ACCELERATOR"] = "cpu"
    for name in os.environ:
        if name in ("PYTHONPATH", "SDAVS_HOME", *STORAGE_VARIABLES) or name.startswith(NETWORK_VARIABLES):
            environment[name] = os.environ[name]
    return environment | config.cluster.env


def with_gpus_decided(config: RunConfig) -> RunConfig:
    """The config with `cluster.use_gpu: auto` replaced by what this process's cluster has; the rest as it is.

    Raises:
        ValueError: other keys do not fit the decision.
    """
    if config.cluster.use_gpu != "auto":
        return config
    on_gpu = config.cluster.model_copy(update={"use_gpu": True})
    use_gpu = num_worker_slots(on_gpu) >= on_gpu.min_workers
    logger.info("cluster.use_gpu: auto is %s here", str(use_gpu).lower())
    values = config.model_dump()
    return RunConfig.model_validate(values | {"cluster": values["cluster"] | {"use_gpu": use_gpu}})


def require_resources(config: ClusterConfig) -> None:
    """Wait until all workers, or the fewest to train with, fit into the cluster; logs that it waits.

    Raises:
        ValueError: the cluster is too small, or stays too busy for `wait_seconds`; names what is missing.
    """
    wanted = f"{config.min_workers} workers of {_describe(config)}"
    if not config.autoscales and num_worker_slots(config) < config.min_workers:
        has = ray.cluster_resources()
        raise ValueError(
            f"cluster.num_workers: {wanted} do not fit into this Ray cluster "
            f"({has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs on {len(_alive_nodes())} nodes)"
        )
    # Reserved for a moment: this proves that they fit, and makes an autoscaler add what is missing.
    bundle: dict[str, float] = {"CPU": config.cpus_per_worker}
    if config.use_gpu:
        bundle["GPU"] = 1
    if config.accelerator_type is not None:
        bundle[f"accelerator_type:{config.accelerator_type}"] = 0.001  # as ScalingConfig asks for it
    group = placement_group([bundle] * config.min_workers, strategy=config.placement)
    deadline = time.monotonic() + config.wait_seconds
    try:
        while not group.wait(5):
            if time.monotonic() > deadline:
                free = ray.available_resources()
                raise ValueError(
                    f"cluster.num_workers: {wanted} do not fit next to what already runs; only "
                    f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs were free "
                    f"for {config.wait_seconds:g} s"
                )
            logger.info("waiting for %s to become free", wanted)
    finally:
        remove_placement_group(group)


def _describe(config: ClusterConfig) -> str:
    gpu = " and 1 GPU" if config.use_gpu else ""
    return f"{config.cpus_per_worker} CPU{'s' if config.cpus_per_worker > 1 else ''}{gpu}"


def _alive_nodes() -> list[dict]:
    return [node for node in ray.nodes() if node["Alive"]]


def may_have_other_nodes(config: ClusterConfig) -> bool:
    """Whether workers may run on other machines than this one, now or later."""
    return config.autoscales or config.min_workers < config.max_workers or len(_alive_nodes()) > 1


def num_worker_slots(config: ClusterConfig) -> int:
    """Number of workers that fit into the whole cluster as it is, if nothing else runs."""
    return sum(_worker_slots_on(config, node["Resources"]) for node in _alive_nodes())


def _worker_slots_on(config: ClusterConfig, resources: dict[str, float]) -> int:
    slots = int(resources.get("CPU", 0) // config.cpus_per_worker)
    return min(slots, int(resources.get("GPU", 0))) if config.use_gpu else slots
