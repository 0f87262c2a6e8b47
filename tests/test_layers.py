"""Imports go one way: down the layers below, and in no circle, between modules and between folders, jobs included.

Every import counts, also those inside functions and under TYPE_CHECKING. A layer is a row; a module belongs to the row
with the longest name that it starts with. It may import from its own folder and from rows below, not from neighbours
in its row.
"""

import ast
import functools
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE_ROOTS = {
    "sdavs_model": ROOT,
    "sdavs_platform": ROOT / "platform",
    "sdavs_serve": ROOT / "serve",
    "jobs": ROOT,
}
LAYERS = """
    jobs
    jobs.prepare jobs.benchmarks
    jobs._flags
    jobs._job

    serve.tools
    serve.app serve.client serve.deployment
    serve.http
    serve.page serve.inference serve.encoding
    serve.decoding serve.rollout
    serve.model_calls serve.schema serve.errors serve.tracing
    serve

    platform.local
    platform.tuning platform.benchmarks platform.analysis
    platform.training
    platform.evaluation platform.operations
    platform.tracking platform.storage
    platform.cluster
    platform.command platform.deepspeed_internals platform.ray_internals
    platform.config platform.console platform.state_files platform.tables
    platform

    model
    model.analysis
    model.trained_parts
    model.accumulation model.artifact model.budgets
    model.ensemble model.golden model.benchmark model.training_step
    model.recipes
    model.metrics model.losses model.audio_control model.architectures
    model.data.tools
    model.data.paired_sounds
    model.data.training_clips model.data.feature_clips
    model.data.datasets
    model.data.realav
    model.data.benchmarks
    model.data.augment
    model.data.core
    model.data
    model.weights
    model.encoders
    model.artifact_files model.masks model.precision
    model.config model.costs
    model.files model.suggestions model.cpu_memory model.lean_timm
"""
ROW_OF = {
    name if name.startswith("jobs") else f"sdavs_{name}": row
    for row, names in enumerate(LAYERS.strip().splitlines())
    for name in names.split()
}


@functools.cache
def read_imports() -> dict[str, set[str]]:
    """{module: modules of ours that it imports}."""
    files = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for package, root in SOURCE_ROOTS.items()
        for path in (root / package).rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    for module, path in files.items():
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path}: imports relatively"
                # `from package import name`: a module of that name, or a name that the package defines.
                paths = [f"{node.module}.{alias.name}" for alias in node.names]
                names |= {name if name in files else node.module for name in paths}
        if module.startswith("jobs."):
            # Jobs are scripts: their folder is on the path, so they import each other without its name.
            names |= {f"jobs.{name}" for name in names if f"jobs.{name}" in files}
        found[module] = {name for name in names if name in files} - {module}
    return found


def find_circle(imports: Mapping[str, Iterable[str]]) -> list[str]:
    """The names along one circle; empty if there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def at_depth(depth: int) -> dict[str, set[str]]:
    """The imports between names cut to `depth` parts: folders where they go deeper, modules where they do not."""
    cut: dict[str, set[str]] = {}
    for module, imported in read_imports().items():
        name = ".".join(module.split(".")[:depth])
        cut.setdefault(name, set()).update(".".join(other.split(".")[:depth]) for other in imported)
    return {name: others - {name} for name, others in cut.items()}


def layer_of(module: str) -> str:
    parts = module.split(".")
    return next(name for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in ROW_OF)


def test_a_circle_is_found():
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    assert not find_circle({"a": {"b", "c"}, "b": {"c"}})


@pytest.mark.parametrize("depth", [2, 3, 4, 9], ids=["packages", "folders", "their folders", "modules"])
def test_no_imports_go_round_in_a_circle(depth: int):
    circle = find_circle(at_depth(depth))
    assert not circle, " -> ".join(circle)


def test_every_module_imports_from_its_own_layer_or_a_lower_one():
    wrong = [
        f"{module} imports {other}: {above} is not above {below}"
        for module, imported in read_imports().items()
        for other in sorted(imported)
        if (above := layer_of(module)) != (below := layer_of(other)) and ROW_OF[above] >= ROW_OF[below]
    ]
    assert not wrong, "\n".join(wrong)


def test_every_layer_exists():
    missing = [
        layer
        for layer in ROW_OF
        if not any(f"{module}.".startswith(f"{layer}.") for module in read_imports())
    ]
    assert not missing
