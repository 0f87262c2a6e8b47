"""What a process imports before it does anything: each second of CPU time counts in every process of every training."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sdavs_model

ROOT = Path(__file__).resolve().parents[1]
SOURCE_ROOTS = (ROOT, ROOT / "platform", ROOT / "serve")
LAZY = sdavs_model._HOMES | {name: f"sdavs_model.{name}" for name in sdavs_model._SUBMODULES}
"""Modules that `from sdavs_model import NAME` imports, by name."""


def file_of(module: str) -> Path | None:
    paths = [root / module.replace(".", "/") for root in SOURCE_ROOTS]
    files = [file for path in paths for file in (path.with_suffix(".py"), path / "__init__.py")]
    return next((file for file in files if file.is_file()), None)


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Those that run when a module is imported."""
    for node in body:
        if isinstance(node, ast.FunctionDef) or (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        ):
            continue
        yield node
        for part in ("body", "orelse", "finalbody"):
            yield from statements(getattr(node, part, []))


def imported_by(file: Path) -> Iterator[str]:
    for node in statements(ast.parse(file.read_text()).body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            for alias in node.names:
                if node.module == "sdavs_model" and alias.name in LAZY:
                    yield LAZY[alias.name]
                elif file_of(f"{node.module}.{alias.name}"):
                    yield f"{node.module}.{alias.name}"


def chains(module: str) -> dict[str, str]:
    """Everything that importing `module` imports, without what other libraries import: the chain that leads there."""
    found, waiting = {module: module}, [module]
    while waiting:
        above = waiting.pop()
        if (file := file_of(above)) is None:
            continue
        for name in imported_by(file):
            package = name.split(".")[0]
            name = name if package.startswith("sdavs_") else package
            if name not in found:
                found[name] = f"{found[above]} -> {name}"
                waiting.append(name)
    return found


@pytest.mark.parametrize(
    ("module", "library"),
    [
        ("sdavs_platform.training.run", "timm"),
        ("sdavs_platform.training.run", "deepspeed"),
        ("sdavs_platform.training.loop", "mlflow"),
        ("sdavs_platform.training.loop", "matplotlib"),
        ("sdavs_platform.training.faults.retries", "mlflow"),
        ("sdavs_platform.training.checkpoints.listing", "torch"),
        ("sdavs_platform.config.cli", "torch"),
        ("sdavs_platform.tuning.driver", "torch"),
        ("sdavs_platform.tuning.driver", "mlflow"),
        ("sdavs_serve.http.ingress", "torch"),
        ("sdavs_serve.rollout.controller", "torch"),
        ("sdavs_serve.decoding.fork_server", "torch"),
        ("sdavs_model", "torch"),
    ],
)
def test_a_process_imports_no_library_that_it_may_not_need(module: str, library: str):
    found = chains(module)
    assert library not in found, found[library]


def test_the_chain_to_a_library_is_found():
    assert chains("sdavs_platform.training.loop")["timm"].endswith(" -> timm")
    assert chains("sdavs_platform.tracking.registry")["mlflow"].endswith("tracking.registry -> mlflow")


def test_timm_comes_without_torchs_compiler_which_is_loaded_when_it_is_used():
    program = (
        "import sys; from sdavs_model.lean_timm import timm; print('torch._dynamo' in sys.modules); import torch; "
        "from torchvision.ops.roi_align import is_compile_supported; print(is_compile_supported('cpu')); "
        "print(torch.compile(lambda x: x + 1, backend='eager')(torch.zeros(1)).item())"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout.split() == ["False", "True", "1.0"], ran.stderr
