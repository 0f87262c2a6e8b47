"""Import timm without torch's compiler, which takes half of the import's CPU time and is rarely used.

torchvision, which timm imports, takes one function from the compiler, for a check on GPUs; timm marks functions that
must not be compiled. During the import a stand-in serves both. The compiler itself is loaded when it is used.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

import torch

__all__ = ["timm"]

_COMPILER = "torch._dynamo"


class _StandIn(ModuleType):
    """Has a module's names for now; the module itself is imported for any other name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []  # that of a package without modules: nothing else is found in it by mistake

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _remove_stand_ins()
        return getattr(importlib.import_module(self.__name__), name)


def _remove_stand_ins() -> None:
    for name in (f"{_COMPILER}.utils", _COMPILER):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def _disable(function: Any = None, recursive: bool = True, **_: Any) -> Any:
    # The same mark, which loads the compiler at the first call.
    return torch._disable_dynamo(function, recursive)


def _is_compile_supported(device_type: str) -> bool:
    return importlib.import_module(f"{_COMPILER}.utils").is_compile_supported(device_type)


if _COMPILER not in sys.modules:
    sys.modules[_COMPILER] = compiler = _StandIn(_COMPILER)
    compiler.disable = _disable  # type: ignore[attr-defined]
    sys.modules[f"{_COMPILER}.utils"] = utils = _StandIn(f"{_COMPILER}.utils")
    utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
try:
    import timm
finally:
    _remove_stand_ins()
