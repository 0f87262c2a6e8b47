"""What holds for the whole repository: the source roots, the direction of imports, the jobs, the configs."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from sdavs_platform.config.cli import load_config

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "sdavs_model": ROOT / "sdavs_model",
    "sdavs_platform": ROOT / "platform" / "sdavs_platform",
    "sdavs_serve": ROOT / "serve" / "sdavs_serve",
}
FORBIDDEN = {
    "sdavs_model": {"sdavs_platform", "sdavs_serve", "ray", "mlflow", "pydantic", "deepspeed"},
    "sdavs_platform": {"sdavs_serve"},
    "sdavs_serve": set(),
}
JOBS = sorted(path for path in (ROOT / "jobs").glob("*.py") if not path.name.startswith("_"))
CONFIGS = sorted((ROOT / "jobs" / "configs").glob("*.yaml"))


def tracked(*patterns: str) -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def imported_by(path: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_the_platform_folder_does_not_hide_pythons_own_platform():
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert not list(ROOT.glob("**/platform.py")) or all(
        ".venv" in p.parts for p in ROOT.glob("**/platform.py")
    )
    code = "import platform, ray; print(platform.system())"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_source_roots_are_not_packages():
    for root in ("platform", "serve", "jobs", "infra"):
        assert not (ROOT / root / "__init__.py").exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_below_imports_anything_above(package: str):
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in PACKAGES[package].rglob("*.py")
        for name in imported_by(path) & (FORBIDDEN[package] | {job.stem for job in JOBS})
    }
    assert not wrong


def test_every_source_file_says_what_it_is():
    silent = [path for path in tracked("*.py") if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)
def test_every_job_shows_its_command_and_explains_its_flags(job: Path):
    docstring = ast.get_docstring(ast.parse(job.read_text())) or ""
    assert f"python jobs/{job.name}" in docstring
    ran = subprocess.run([sys.executable, str(job), "--help"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "usage:" in ran.stdout


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_is_valid(path: Path):
    load_config([path])


def test_every_dependency_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    explained = (ROOT / "docs" / "dependencies.md").read_text()
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for requirement in wanted:
        name = requirement.split("[")[0].split("=")[0].split(">")[0]
        assert name in explained, f"docs/dependencies.md says nothing of {name}"


def test_the_lock_pins_digests_and_names_no_host():
    lock = (ROOT / "requirements.lock").read_text()
    assert "--hash=sha256:" in lock
    assert "://" not in lock
