"""A Ray cluster of two CPUs for the sweeps of these tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from running import QUICK_TRAIN, ray_cluster, ray_driver, ray_environment


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address; this process has joined it, and its state folder is one of its own."""
    from sdavs_platform.cluster import worker_environment
    from sdavs_platform.config.tree import RunConfig

    home = str(tmp_path_factory.mktemp("home"))
    with (
        ray_environment(Path(__file__).parent, SDAVS_HOME=home, **QUICK_TRAIN),
        ray_cluster(num_cpus=2, include_dashboard=False, forks=True) as nodes,
    ):
        environment = worker_environment(RunConfig()) | {"RAY_ADDRESS": nodes.address}
        with ray_driver(nodes.address, runtime_env={"env_vars": environment}, log_to_driver=False):
            yield nodes.address
