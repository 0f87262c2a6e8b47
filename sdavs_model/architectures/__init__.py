"""The model architectures by name: one folder each, and one line in `ARCHITECTURES`.

`docs/add_a_model.md` describes the files of a folder and what each of them defines.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdavs_model.architectures.ddeseg.config import DDESegConfig
from sdavs_model.architectures.sdavs.config import SDAVSConfig
from sdavs_model.architectures.tpavi.config import TPAVIConfig
from sdavs_model.config import ModelConfig
from sdavs_model.suggestions import nearest_or_all

if TYPE_CHECKING:
    from sdavs_model.architectures.base import SegmentationModel


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Entry of the registry. The modules of an architecture are imported when they are needed: torch takes seconds."""

    name: str
    """Name in configs, artifacts and the registry, and of its folder."""
    config: type[ModelConfig]
    """Class of its configs."""
    model: str
    """Class of its models, in the module `model` of its folder."""

    def module(self, name: str) -> Any:
        """One of the modules of its folder: "model", "recipes" or "budgets"."""
        return importlib.import_module(f"{__name__}.{self.name}.{name}")


# The first is the default: configs and artifacts of earlier versions name no architecture.
ARCHITECTURES: dict[str, Architecture] = {
    each.name: each
    for each in (
        Architecture(name="sdavs", config=SDAVSConfig, model="SDAVS"),
        Architecture(name="ddeseg", config=DDESegConfig, model="DDESeg"),
        Architecture(name="tpavi", config=TPAVIConfig, model="TPAVI"),
    )
}
DEFAULT_ARCHITECTURE = next(iter(ARCHITECTURES))


def find_architecture(name: str) -> Architecture:
    """The architecture of this name.

    Raises:
        ValueError: there is none; names the nearest.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"architecture: no {name!r}; {nearest_or_all(name, ARCHITECTURES)}")
    return ARCHITECTURES[name]


def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """The inverse of `ModelConfig.to_dict` for any architecture; without a name, the default one.

    Raises:
        ValueError: an unknown architecture, a key that it does not have, or a bad value.
    """
    found = find_architecture(values.get("architecture", DEFAULT_ARCHITECTURE))
    return found.config.from_dict(dict(values))


def build_model(config: ModelConfig) -> "SegmentationModel":
    """Build the model that `config` describes, with the weights it names.

    Raises:
        ValueError: the backbone has no four stages, or a weights file is missing or does not fit.
    """
    found = find_architecture(config.architecture)
    return getattr(found.module("model"), found.model)(config=config)
