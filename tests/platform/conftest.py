"""One small data set, one state folder and one Ray cluster of two CPUs for all tests of the platform."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sdavs_platform.cli import validated
from sdavs_platform.config import RunConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few composed clips per split."""
    from sdavs_model.data.realav import RealAVConfig, prepare

    folder = tmp_path_factory.mktemp("data")
    counts = {"num_train": 8, "num_val": 3, "num_test_new_scenes": 6, "num_test_strict": 6}
    prepare(folder, RealAVConfig(**counts, size=64))
    return folder


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of these tests, in place of the user's own."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDAVS_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def make_config(data: Path, state: Path) -> Any:
    """A config of a run that takes seconds; keywords are sections that add to it or change it."""

    def make(name: str, **changes: dict[str, Any]) -> RunConfig:
        values: dict[str, Any] = {
            "data": {"root": str(data)},
            "model": {
                "backbone": "pvt_v2_b0",
                "image_size": 64,
                "width": 32,
                "num_heads": 2,
                "vggish_width": 0.125,
            },
            "training": {"epochs": 2, "batch_size": 4, "log_every": 1},
            "optimizer": {"warmup_steps": 0},
            "tracking": {"uri": f"sqlite:///{state / 'mlflow.db'}"},
            "storage": {"uri": str(state / "results")},
        }
        merged = {key: values.get(key, {}) | changes.get(key, {}) for key in values | changes}
        return validated({"name": name} | merged)

    return make


@pytest.fixture(scope="module")
def cluster(make_config: Any) -> Iterator[None]:
    """Two CPUs of our own, whatever else runs on this machine."""
    import ray
    from ray.cluster_utils import Cluster
    from sdavs_platform.cluster import worker_environment

    roots = [str(ROOT), str(ROOT / "platform"), str(ROOT / "serve")]
    changed = {
        "PYTHONPATH": os.pathsep.join(roots),
        "RAY_AUTH_MODE": "disabled",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    }
    before = {name: os.environ.get(name) for name in [*changed, "RAY_ADDRESS"]}
    os.environ.update(changed)
    os.environ.pop("RAY_ADDRESS", None)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    environment = worker_environment(make_config("any")) | {"RAY_ADDRESS": nodes.address}
    ray.init(address=nodes.address, runtime_env={"env_vars": environment}, logging_level="WARNING")
    yield
    ray.shutdown()
    nodes.shutdown()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
