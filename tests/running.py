"""Ray clusters and processes that tests start: ended with the test, also when it fails halfway through the start."""

import functools
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import patience
from worker_forks import forked_workers

ROOT = Path(__file__).resolve().parents[1]

QUICK_TRAIN = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # One process more for every group of workers; test_nodes, where nodes are drained, has it.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""What tests want of Ray Train, as variables of Ray's processes and drivers."""


@contextmanager
def process(command: list[Any], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A `subprocess.Popen` that is killed on the way out, with its children, if it still runs."""
    with subprocess.Popen(command, **options) as started:
        try:
            yield started
        finally:
            kill_family(started.pid)


def kill_family(number: int) -> None:
    """SIGKILL for a process and all below it; returns when they are gone."""
    try:
        parent = psutil.Process(number)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=patience(30))


NODE_STARTS = 3
"""How often a node of a cluster is started at most."""

GROUP = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "DS_SKIP_CUDA_CHECK": "1"}
"""The environment of processes that form a group by gloo."""


def run_processes(function: Callable[..., None], arguments: tuple[Any, ...], *, number: int) -> None:
    """Call `function(rank, *arguments)` in new processes, all forked from one that has imported torch and DeepSpeed.

    Raises:
        torch.multiprocessing.ProcessRaisedException: one of them failed; the others are ended.
    """
    import torch.multiprocessing as mp

    os.environ.update(GROUP)
    # Optimizers import torch's compiler in their first step.
    preloaded = ["deepspeed", "sdavs_platform.training.loop", "torch._dynamo"]
    mp.get_context("forkserver").set_forkserver_preload(preloaded)
    mp.start_processes(function, args=arguments, nprocs=number, start_method="forkserver")


@contextmanager
def ray_environment(*folders: Path, **variables: str) -> Iterator[None]:
    """The variables of Ray's processes and of its drivers.

    Args:
        folders: whose modules workers import, besides the product's.
        variables: more of them.
    """
    roots = [ROOT, ROOT / "platform", ROOT / "serve", *folders]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, roots)))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@contextmanager
def ray_cluster(*, nodes: int = 0, forks: bool = False, **head: Any) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` of our own, whatever else runs on this machine.

    Args:
        nodes: how many nodes of one CPU each it has besides the head.
        forks: whether its workers are forked, see `worker_forks`.
        head: more settings of the head.
    """
    from ray.cluster_utils import Cluster

    with ExitStack() as ending:
        ending.callback(_kill_new_children, known=_children())
        cluster: Any = Cluster()
        if forks:
            cluster.add_node = functools.partial(cluster.add_node, **forked_workers())
        cluster.add_node = functools.partial(_add_node, cluster.add_node)
        ending.callback(cluster.shutdown)
        # Ray itself would wait for 30 seconds, on any machine.
        cluster.add_node(wait=False, **head)
        cluster.wait_for_nodes(timeout=patience(60))
        for _ in range(nodes):
            cluster.add_node(wait=False, num_cpus=1)
            cluster.wait_for_nodes(timeout=patience(60))
        yield cluster


@contextmanager
def ray_driver(address: str, **options: Any) -> Iterator[None]:
    """This process is a driver of that cluster."""
    import ray

    with ExitStack() as ending:
        ending.callback(ray.shutdown)
        ray.init(address=address, logging_level="WARNING", **options)
        yield


def _add_node(add: Callable[..., Any], **settings: Any) -> Any:
    """A node; again if it was not up within 30 s, a limit of Ray's that a busy machine can exceed and nothing sets."""
    for _ in range(NODE_STARTS - 1):
        known = _children()
        try:
            return add(**settings)
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            _kill_new_children(known)
    return add(**settings)


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _kill_new_children(known: set[psutil.Process]) -> None:
    """Ray's processes that `Cluster.shutdown` does not know of: of a node that failed while it started."""
    for child in _children() - known:
        if _is_of_ray(child):
            kill_family(child.pid)


def _is_of_ray(child: psutil.Process) -> bool:
    try:
        return any("/ray/" in word for word in child.cmdline())
    except psutil.NoSuchProcess:
        return False
