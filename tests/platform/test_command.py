"""How commands end: one line for an error, an exit status, and a bug's traceback in a file."""

import re
import subprocess
import sys
from pathlib import Path

import mlflow.exceptions
import pytest
from sdavs_platform.command import refuse, run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _a_command(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["/somewhere/jobs/train.py", "--seed", "1"])
    monkeypatch.setenv("SDAVS_HOME", str(tmp_path))


def ends(error: BaseException, **settings) -> int:
    def main() -> None:
        raise error

    return run(main, **settings)


def test_a_command_that_returns_has_succeeded_unless_it_returns_a_status():
    assert run(lambda: None) == 0
    assert run(lambda: 3) == 3


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("data.root: no such folder"), "train.py: data.root: no such folder"),
        (PermissionError(13, "Permission denied", "/results"), "train.py: /results: Permission denied"),
        (ConnectionError("no Ray dashboard responds"), "train.py: no Ray dashboard responds"),
        (ValueError("a: wrong\nb: wrong, too"), "train.py: a: wrong\ntrain.py: b: wrong, too"),
    ],
)
def test_a_known_error_is_one_line_with_the_commands_name(error, line, capsys):
    assert ends(error) == 1
    assert capsys.readouterr().err == f"{line}\n"


def test_an_expected_kind_of_error_is_not_a_bug(capsys):
    assert ends(RuntimeError("the training failed"), expected=(RuntimeError,)) == 1
    assert capsys.readouterr().err == "train.py: the training failed\n"


def test_anything_else_is_called_a_bug_and_its_traceback_is_kept_in_the_state_folder(capsys, tmp_path):
    assert ends(KeyError("backbone")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train.py: this is a bug in sdavs (KeyError: 'backbone'); the traceback is in ")
    file = Path(line.rsplit(" ", 1)[1])
    assert file.parent == tmp_path / "logs"
    content = file.read_text()
    assert content.startswith("/somewhere/jobs/train.py --seed 1\n")
    assert "KeyError: 'backbone'" in content
    assert "in main" in content


def test_a_service_that_fails_is_named_and_not_called_a_bug(capsys):
    ends(mlflow.exceptions.MlflowException("API request failed\nwith details"))
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"train\.py: MLflow: API request failed; the traceback is in /", line)


def test_ctrl_c_ends_with_status_130_and_says_how_to_continue(capsys):
    assert ends(KeyboardInterrupt(), when_interrupted="the same command resumes the sweep") == 130
    assert capsys.readouterr().err == "train.py: interrupted; the same command resumes the sweep\n"


def test_a_refusal_exits_with_status_2(capsys):
    with pytest.raises(SystemExit) as ended:
        refuse("seed: -1 is not allowed")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "train.py: seed: -1 is not allowed\n"


def test_a_job_ends_that_way(tmp_path):
    command = [sys.executable, "jobs/segment.py", str(tmp_path / "none.mp4")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr == f"segment.py: there is no file {tmp_path / 'none.mp4'}\n"


@pytest.mark.parametrize(
    ("job", "flags"), [("train.py", ["--sede", "1"]), ("tune.py", ["--study", "noise", "--sede", "1"])]
)
def test_wrong_flags_are_refused_with_status_2(job, flags):
    ran = subprocess.run([sys.executable, f"jobs/{job}", *flags], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1] == f"{job}: sede: unknown key; did you mean seed?"


def test_what_libraries_print_does_not_get_into_a_result():
    program = (
        "import sys; sys.path.insert(0, 'jobs'); from _job import print_result, run_job\n"
        "def main():\n    print('(raylet) a task failed')\n    print_result('[1]')\n"
        "run_job(main, logs_to_stderr=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[1]\n"
    assert "a task failed" in done.stderr


def test_the_help_of_a_job_that_redirects_its_output_is_on_the_standard_output():
    command = [sys.executable, "jobs/benchmark.py", "serve", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: benchmark.py serve")
    assert not done.stderr
