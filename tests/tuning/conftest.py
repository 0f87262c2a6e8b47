"""A Ray cluster of two CPUs for the sweeps of these tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address; this process has joined it, and its state folder is one of its own."""
    import ray
    from ray.cluster_utils import Cluster
    from sdavs_platform.cluster import worker_environment
    from sdavs_platform.config.tree import RunConfig

    roots = [str(ROOT), str(ROOT / "platform"), str(ROOT / "serve"), str(ROOT / "tests" / "tuning")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(roots))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("SDAVS_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("RAY_ADDRESS", raising=False)
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        environment = worker_environment(RunConfig()) | {"RAY_ADDRESS": nodes.address}
        ray.init(
            address=nodes.address,
            runtime_env={"env_vars": environment},
            logging_level="WARNING",
            log_to_driver=False,
        )
        yield nodes.address
        ray.shutdown()
        nodes.shutdown()
