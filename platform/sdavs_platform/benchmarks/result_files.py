"""Results of benchmarks as files: where they were measured, by which command, and the ratios that can be compared.

A file's name says hardware, number format and compile state, as timm's result tables do.
"""

import importlib.metadata
import json
import os
import platform
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from sdavs_model.files import write_atomically
from sdavs_platform.tracking.runs import git_commit

PACKAGES = ("torch", "timm", "torchaudio", "ray", "deepspeed", "mlflow", "numpy")
"""Whose versions a file states."""

CPU_INFO = Path("/proc/cpuinfo")


def environment(command: str) -> dict[str, Any]:
    """What a figure depends on in addition to the code: {"command", "hardware", "versions", "commit", "date"}."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "command": command,
        "hardware": {
            "cpu": _cpu_name(CPU_INFO.read_text() if CPU_INFO.exists() else ""),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gb": round(psutil.virtual_memory().total / 1e9),
            "gpu": gpu,
            # Of the minute before: figures of a busy machine are not those of an idle one.
            "load": round(os.getloadavg()[0], 1),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "commit": git_commit(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def file_name(hardware: Mapping[str, Any], *, precision: str, compiled: bool) -> str:
    """Such as amd-epyc-2-cores-fp32-eager.json."""
    device = hardware["gpu"] or f"{hardware['cpu']} {hardware['cores']} cores"
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return f"{slug}-{precision}-{'compiled' if compiled else 'eager'}.json"


def write(folder: Path, name: str, content: Mapping[str, Any]) -> Path:
    """Write one file, whole or not at all; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / name, json.dumps(content, indent=2) + "\n")
    return folder / name


def ratios(results: Mapping[str, Any]) -> dict[str, float]:
    """The figures that mean the same on another machine, from the results of the subjects that ran.

    Args:
        results: by subject, what `jobs/benchmark.py SUBJECT --json` printed.
    """
    found: dict[str, float] = {}
    for subject in ("model", "small model"):
        for row in results.get(subject, {}).get("rows", []):
            if row["speed"]:
                name = f"{row['backbone']} at {row['image_size']} px"
                found[f"whole model / bare backbone, {name}"] = row["speed"]["ratio"]
                if row["speed"]["cpu_ratio"] is not None:
                    found[f"whole model / bare backbone, CPU time, {name}"] = row["speed"]["cpu_ratio"]
    if "training" in results:
        found["training: speed of the platform / bare loop"] = results["training"]["ratio"]
        found["training: the same by CPU time"] = results["training"]["cpu_ratio"]
    for way, waits in results.get("data", {}).get("wait", {}).items():
        for number, fraction in waits.items():
            found[f"waiting for the loader / step, {way}, {number} processes"] = fraction
    rows = results.get("serve", [])
    bare = [row["clips_per_s"] for row in rows if row["what"].startswith("bare")]
    served = [row["clips_per_s"] for row in rows if not row["what"].startswith("bare")]
    if bare and served:
        found["serving: endpoint / bare model, clips/s at their best"] = max(served) / max(bare)
    return found


def _cpu_name(cpu_info: str) -> str:
    """The CPU's name as reported by Linux."""
    match = re.search(r"^model name\s*:\s*(.+)$", cpu_info, flags=re.MULTILINE)
    return match[1].strip() if match else platform.machine()
