"""One training's life, by the commands that a user would type: killed, moved, fine-tuned to other data, promoted.

    .venv/bin/python tests/drills/story.py
    .venv/bin/python tests/drills/story.py --folder /tmp/story     a second call resumes after the last finished part

Two data sets of a few composed clips, the configuration of the demo without pretrained weights, cut to a few steps, and
MLflow's database in the same folder. Each command is printed before it runs, and the main lines of its output after it.
"""

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sdavs_platform.tracking.client import mlflow_client

ROOT = Path(__file__).resolve().parents[2]
CUT = (
    "--config jobs/configs/demo_from_scratch.yaml --cluster.address local --training.batch_size 4 "
    "--training.log_every 1 --training.val_every 1 --model.width 16 --model.num_heads 2 "
    "--optimizer.warmup_steps 0 --data.whole_clips 0"
)

SHOWN = re.compile(r": (starting|resuming)| step \d+/| validated |^  |written$|is now version|Error")
"""Lines of the commands' outputs that are printed."""
PROCESS = re.compile(r"^\S*\(\w+ pid=\d+\)\S* ")
"""What Ray puts before a line of a worker."""


class Story:
    """Runs commands in a folder of its own.

    Args:
        folder: data sets, checkpoints and MLflow's database; marks of the parts that are done.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"SDAVS_HOME": str(folder), "PYTHONUNBUFFERED": "1"}

    def run(self, part: str, command: str, *, kill_at: str | None = None) -> None:
        """Run a command unless it has been run before.

        Args:
            part: name of its mark.
            kill_at: SIGKILL for the command and its Ray as soon as a line holds this text.
        """
        mark = self.folder / f".{part}"
        if mark.is_file():
            return
        print(f"\n$ {command}", flush=True)
        process = subprocess.Popen(
            [sys.executable if word == "python" else word for word in shlex.split(command)],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        lines, began = [], time.monotonic()
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                if kill_at is not None and kill_at in line:
                    break
            status = None if kill_at else process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        status = process.wait() if status is None else status
        plain = [PROCESS.sub("", line) for line in lines]
        print("\n".join(line for line in plain if SHOWN.search(line)))
        print(
            f"({'killed' if kill_at else f'exit status {status}'} after {time.monotonic() - began:.0f} s)",
            flush=True,
        )
        if (status != 0) != (kill_at is not None):
            sys.exit(f"{part}: exit status {status}")
        mark.touch()


def tell(folder: Path) -> None:
    """The parts in order."""
    story = Story(folder)
    for name, seed in (("first", 0), ("second", 1)):
        counts = "--num-train 12 --num-val 4 --num-test-new-scenes 4 --num-test-strict 4 --size 64"
        story.run(
            f"data-{name}",
            f"python jobs/prepare_data.py --out {folder / name} {counts} --seed {seed}",
        )
    first, second = (f"--data.root {folder / name}" for name in ("first", "second"))
    train = f"python jobs/train.py {CUT}"
    story.run(
        "killed",
        f"{train} --name story {first} --training.epochs 4 --training.checkpoint_every 2 --cluster.num_workers 2",
        kill_at="step 7/",
    )
    story.run(
        "moved",
        f"{train} --name story {first} --training.epochs 4 --training.checkpoint_every 2 --cluster.num_workers 1",
    )
    story.run("promoted", "python jobs/promote.py --version latest")
    story.run(
        "tuned",
        f"{train} --name tuned {second} --start.from models:/sdavs@champion --training.epochs 2 --optimizer.lr 1e-4 "
        "--cluster.num_workers 1",
    )
    story.run("tuned-promoted", "python jobs/promote.py --version latest")
    client = mlflow_client(f"sqlite:///{folder / 'mlflow.db'}")
    version = client.get_model_version_by_alias("sdavs", "champion")
    kept = {key: version.tags[key] for key in ("training", "start_from") if key in version.tags}
    print(f"\nchampion is version {version.version}: {kept}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where all of it lies (default: a temporary folder)")
    flags = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if flags.folder is not None:
        flags.folder.mkdir(parents=True, exist_ok=True)
        tell(flags.folder.resolve())
        return 0
    with tempfile.TemporaryDirectory(prefix="sdavs-story-") as folder:
        tell(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
