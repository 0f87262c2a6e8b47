"""`make gpu-check` without a GPU: every part runs at the smallest size, and what is measured is on disk."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_rehearsal_on_a_cpu_runs_every_part_and_meets_the_goals_of_numbers(tmp_path):
    command = [sys.executable, str(ROOT / "infra/check/gpu.py"), "--device", "cpu", "--tiny"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "gpu_check.json").read_text())
    assert content["parts"] == dict.fromkeys(
        ("numerics", "inference", "training", "recipe", "deepspeed", "compiled"), "done"
    )
    rows = {(row["part"], row["name"]): row for row in content["measurements"]}
    assert all(
        row["reached"] is not False for (part, _), row in rows.items() if part in ("numerics", "deepspeed")
    )
    table = (tmp_path / "gpu_check.md").read_text()
    assert all(name in table for _, name in rows)


def test_what_was_measured_before_the_end_is_on_disk(tmp_path, monkeypatch):
    import torch
    from gpu_report import OutOfTime, Report

    report = Report(tmp_path, device=torch.device("cpu"), minutes=1)
    report.part("numerics", "running")
    report.add("difference", 0.5, "relative", at_most=0.1)
    content = json.loads((tmp_path / "gpu_check.json").read_text())
    assert content["parts"] == {"numerics": "running"}
    assert content["measurements"][0]["reached"] is False
    assert "| numerics | difference | 0.5 relative | <= 0.1 | no |" in (tmp_path / "gpu_check.md").read_text()
    report.require_time(1)
    with pytest.raises(OutOfTime):
        report.require_time(61)


def test_what_fails_is_noted_and_does_not_end_the_run(tmp_path):
    import torch
    from gpu_report import OutOfTime, Report

    report = Report(tmp_path, device=torch.device("cpu"), minutes=1)
    report.part("training", "running")
    with report.guarded("training of pvt_v2_b5"):
        raise torch.OutOfMemoryError("CUDA out of memory\nmore lines")
    with report.guarded("no message"):
        raise AssertionError
    report.add("loss", 0.5)
    content = json.loads((tmp_path / "gpu_check.json").read_text())
    first, second = content["failures"]
    assert re.fullmatch(
        r"training of pvt_v2_b5: OutOfMemoryError in test_gpu_check.py:\d+: CUDA out of memory", first
    )
    assert re.fullmatch(r"no message: AssertionError in test_gpu_check.py:\d+: ", second)
    assert content["measurements"][0]["value"] == 0.5
    assert "- failed: training of pvt_v2_b5" in (tmp_path / "gpu_check.md").read_text()
    assert not report.is_good
    with pytest.raises(OutOfTime), report.guarded("a part without time"):
        report.require_time(61)
