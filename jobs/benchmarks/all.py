"""Run the subjects with ratios one after another, each with a time limit, into one result file.

    python jobs/benchmark.py all                                    prints the ratios, writes benchmarks/results/*.json
    python jobs/benchmark.py all --json                             prints the file's content
    python jobs/benchmark.py all --only model data --out /tmp/out

The file is written after every subject, so an interrupted run keeps its results so far. If a subject fails or exceeds
its limit, the reason is written to the file and the next one runs.
"""

import argparse
import contextlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from _flags import add_json
from _job import print_result

ROOT = Path(__file__).resolve().parents[2]


LIMIT_S = 1800.0
"""How long one subject may take. Our choice: eight times what the longest took on two idle cores (228 s, see
benchmarks/results/), so that only one that has stopped working is ended."""

SUBJECTS: dict[str, list[str]] = {
    "model": [
        *("model", "--recipes", "full", "--threads", "2", "--repeats", "3"),
        *("--backbone", "swin_base_patch4_window12_384", "pvt_v2_b5"),
    ],
    "small model": [
        *("model", "--config", "jobs/configs/demo_from_scratch.yaml", "--threads", "2"),
        *("--image-size", "128", "--repeats", "15"),
    ],
    "data": ["data", "--simulate-gpu", "--workers", "1", "2", "--steps", "6"],
    "training": ["training", "--rounds", "5", "--steps", "5"],
    "recovery": ["recovery"],
    "serve": [
        *("serve", "--untrained", "--seconds", "8", "--max-requests", "16"),
        *("--clients", "1", "4", "16", "64", "512"),
    ],
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `benchmark.py all`."""
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*SUBJECTS],
        default=[*SUBJECTS],
        metavar="SUBJECT",
        help=f"some of: {', '.join(SUBJECTS)} (default: all)",
    )
    where = parser.add_argument_group("where it goes")
    where.add_argument(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "results",
        help="folder of the file (default: benchmarks/results in the checkout)",
    )
    add_json(where)


def run(flags: argparse.Namespace) -> None:
    """Measure, write and print."""
    from sdavs_platform.benchmarks import result_files
    from sdavs_platform.storage.datasets import bundled_data

    bundled_data()  # composed on first use, which is nobody's time
    content: dict[str, Any] = result_files.environment(shlex.join(["python", *sys.argv]))
    content |= {"subjects": {}, "results": {}, "ratios": {}}
    name = result_files.file_name(content["hardware"], precision="fp32", compiled=False)
    for subject in flags.only:
        results, about = _measured(SUBJECTS[subject])
        content["subjects"][subject] = about
        if results is not None:
            content["results"][subject] = results
        content["ratios"] = result_files.ratios(content["results"])
        path = result_files.write(flags.out, name, content)
    print_result(json.dumps(content, indent=2) if flags.json else _table(content, path))


def _measured(arguments: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """The command's output, None if it failed; and {"command", "seconds", "error"}."""
    # A process of its own: threads, memory and Ray of one subject do not reach the next.
    command = [sys.executable, str(ROOT / "jobs" / "benchmark.py"), *arguments, "--json"]
    started = time.monotonic()
    results, error = None, None
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        printed, _ = process.communicate(timeout=LIMIT_S)
        if process.returncode:
            error = f"exit status {process.returncode}"
        else:
            results = json.loads(printed)
    except subprocess.TimeoutExpired:
        error = f"not done after {LIMIT_S:g} s"
        # Its Ray and its training, too: they would take time from the next subject.
        for member in [*psutil.Process(process.pid).children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.communicate()
    except json.JSONDecodeError as problem:
        error = str(problem)
    shown = shlex.join(["python", "jobs/benchmark.py", *arguments])
    return results, {"command": shown, "seconds": round(time.monotonic() - started, 1), "error": error}


def _table(content: dict[str, Any], path: Path) -> str:
    from sdavs_platform.tables import text_table

    lines = [text_table(["ratio", ""], [[name, f"{value:.3f}"] for name, value in content["ratios"].items()])]
    for subject, about in content["subjects"].items():
        lines.append(f"{subject}: {about['error'] or 'done'}, {about['seconds']:.0f} s")
    return "\n".join([*lines, str(path)])
