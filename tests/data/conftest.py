"""A small real data set for the tests of this folder."""

from pathlib import Path

import pytest

from sdavs_model import PreprocessConfig
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.data.realav.build import RealAVConfig, prepare


@pytest.fixture(scope="session")
def small() -> RealAVConfig:
    """14 clips of 48 pixels."""
    return RealAVConfig(
        num_train=6, num_val=2, num_test_new_scenes=2, num_test_strict=2, num_test_strict_wide=2, size=48
    )


@pytest.fixture(scope="session")
def realav(tmp_path_factory: pytest.TempPathFactory, small: RealAVConfig) -> Path:
    """The prepared data set; tests that change it take a copy."""
    root = tmp_path_factory.mktemp("realav")
    assert prepare(root, small)
    return root


@pytest.fixture(scope="session")
def preprocessor() -> Preprocessor:
    return Preprocessor(PreprocessConfig(image_size=32))
