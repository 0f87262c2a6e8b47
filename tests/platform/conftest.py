"""One small data set, one state folder and one Ray cluster of two CPUs for all tests of the platform."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import mlflow_database
from running import QUICK_TRAIN, ray_cluster, ray_driver, ray_environment
from sdavs_platform.config.cli import validated
from sdavs_platform.config.tree import RunConfig


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few composed clips per split."""
    from sdavs_model.data.realav.build import RealAVConfig, prepare

    folder = tmp_path_factory.mktemp("data")
    counts = {
        "num_train": 8,
        "num_val": 3,
        "num_test_new_scenes": 6,
        "num_test_strict": 6,
        "num_test_strict_wide": 0,
    }
    prepare(folder, RealAVConfig(**counts, size=64))
    return folder


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of these tests, in place of the user's own."""
    folder = tmp_path_factory.mktemp("state")
    mlflow_database(folder)
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


@contextlib.contextmanager
def train_environment() -> Iterator[None]:
    """What the trainings of these tests want of Ray Train."""
    with ray_environment(**QUICK_TRAIN):
        yield


@pytest.fixture(scope="session")
def two_cpus() -> Iterator[str]:
    """The address of a Ray cluster of two CPUs."""
    with contextlib.ExitStack() as running:
        with train_environment():
            nodes = running.enter_context(ray_cluster(num_cpus=2, include_dashboard=False, forks=True))
        yield nodes.address


@pytest.fixture(scope="module")
def cluster(two_cpus: str, make_config: Any) -> Iterator[None]:
    """This process is a driver of that cluster."""
    from sdavs_platform.cluster import worker_environment

    environment = worker_environment(make_config("any")) | {"RAY_ADDRESS": two_cpus}
    with train_environment(), ray_driver(two_cpus, runtime_env={"env_vars": environment}):
        yield
