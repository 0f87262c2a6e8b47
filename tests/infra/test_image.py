"""The image's instructions, as far as they can be checked without a container engine."""

import re
from pathlib import Path

import choose
import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "infra" / "docker" / "Dockerfile").read_text()
PIN = re.compile(r"^([a-z0-9._-]+(?:\[[a-z,]+\])?)==(\S+)", re.MULTILINE)


def pins(lock: str) -> dict[str, str]:
    return dict(PIN.findall(lock))


def test_the_image_has_the_versions_that_the_tests_ran_with_and_no_test_tools():
    image = pins((ROOT / "infra/docker/requirements.lock").read_text())
    everything = pins((ROOT / "requirements.lock").read_text())
    assert image.items() <= everything.items()
    assert {"torch", "ray", "mlflow", "psycopg2-binary", "flask-wtf"} <= {
        name.split("[")[0] for name in image
    }
    assert not {"pytest", "ruff", "mypy", "playwright"} & set(image)


def test_a_cpu_image_leaves_cuda_out_and_keeps_all_other_pins():
    lock = (ROOT / "infra/docker/requirements.lock").read_text()
    pinned, torch = choose.split(lock, "cpu")
    assert set(torch.split()) == {f"{name}=={pins(lock)[name]}" for name in choose.TORCH}
    left_out = set(pins(lock)) - set(pins(pinned)) - choose.TORCH
    assert left_out
    assert all(name == "triton" or name.startswith(("nvidia-", "cuda-")) for name in left_out)
    # Each requirement kept its digests.
    blocks = re.split(r"\n(?=[a-z])", pinned.strip())
    assert len(blocks) == len(PIN.findall(pinned))
    assert all("--hash=sha256:" in block for block in blocks)
    assert choose.split(lock, "cuda") == (lock, "")


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="'tpu' is not allowed; allowed: cpu, cuda"):
        choose.split("", "tpu")


def test_the_image_ends_as_an_ordinary_user_in_the_folder_that_holds_jobs():
    last = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    assert re.findall(r"^USER (.*)$", last, re.MULTILINE) == ["1000:1000"]
    # `ray job submit -- python jobs/train.py` runs in the folder where Ray was started.
    assert re.findall(r"^WORKDIR (.*)$", last, re.MULTILINE) == ["/app"]
    assert "COPY --from=environment /app /app" in last
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.\d+\.\d+-", DOCKERFILE, re.MULTILINE)


def test_the_build_context_holds_what_is_copied_and_no_secrets_or_state():
    ignored = {
        line.removeprefix("**/")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line[:1] not in "#"
    }
    assert {".git", ".sdavs", ".venv"} <= ignored
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE):
        for path in source.split():
            assert (ROOT / path).exists(), path
    kept = (
        "jobs",
        "platform",
        "serve",
        "sdavs_model",
        "infra/docker",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    )
    assert not ignored & set(kept)


def test_uv_is_pinned_alike_everywhere():
    bootstrap = (ROOT / "infra/local/bootstrap.py").read_text()
    version = re.search(r'UV_VERSION = "(.*)"', bootstrap)[1]
    assert f"uv=={version}" in DOCKERFILE
