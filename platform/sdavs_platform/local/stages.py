"""The stages that `make demo` and `make try` share: start the servers, fetch encoders, deploy, send a clip."""

import logging
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from sdavs_model.data.core.clip import Clip
from sdavs_platform.command import FAILED, INTERRUPTED
from sdavs_platform.config.paths import state_folder
from sdavs_platform.console import Steps
from sdavs_platform.local import processes, sample, stack, state
from sdavs_platform.local.commands import Commands
from sdavs_platform.local.stack import Ports, Stack

logger = logging.getLogger(__name__)


def run_stages(body: Callable[[], None], *, command: str, steps: Steps) -> int:
    """Run the stages of one command; returns its exit status.

    If it is interrupted, it stops all that this checkout started.

    Args:
        body: raises RuntimeError or ValueError where a stage fails.
        command: as the user typed it; no other one changes the state folder at the same time.
    """
    home, started, show = state_folder(), time.monotonic(), steps.console.print
    with _interruptible(), state.lock(home, command=command):
        try:
            body()
        except KeyboardInterrupt:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            show("interrupted; stopping everything")
            stack.down(home=home)
            processes.stop_children()
            return INTERRUPTED
        except (RuntimeError, ValueError) as error:
            show(f"\n{error}", markup=False)
            show(
                f"\n`{command}` failed. Ray and MLflow keep running, so that you can look; `make stop` ends them."
            )
            return FAILED
    show(f"\nDone in {time.monotonic() - started:.0f} s.")
    return 0


class Stages:
    """The common stages; each reuses the results of an earlier run.

    Args:
        home: the state folder.
        out: gets the answers and what else a stage leaves.
        steps: shows the progress.
        ports: of what is started.
    """

    def __init__(self, *, home: Path, out: Path, steps: Steps, ports: Ports) -> None:
        self.home = home
        self.out = out
        self.steps = steps
        self._ports = ports

    def start(self) -> Stack:
        """Ray and MLflow."""
        with self.steps.step("Start Ray and MLflow, or reuse them") as step:
            services = stack.up(ports=self._ports, home=self.home)
            step.result = f"{services.ray.dashboard}  {services.mlflow.uri}"
        return services

    def fetch_weights(self, commands: Commands, names: Sequence[str]) -> None:
        """Pretrained encoders by name; those that are here are left."""
        with self.steps.step("Fetch pretrained encoders") as step:
            if names:
                commands.run(
                    *("weights", "python", "jobs/prepare_weights.py", "fetch", *names),
                    on_line=self.steps.now,
                )
            step.result = ", ".join(names) or "none: everything is trained from scratch"

    def deploy(self, commands: Commands, services: Stack, *, model: str) -> str:
        """The endpoint, with a registered model; returns its address."""
        with self.steps.step("Deploy the endpoint") as step:
            known = state.read(self.home)
            address = known.endpoint
            if address is None:
                port = processes.choose_port(self._ports.endpoint, "the endpoint")
                address = f"http://127.0.0.1:{port}"
            # Written before deploying, so that `make stop` knows of it whatever happens next.
            state.write(self.home, known.model_copy(update={"endpoint": address}))
            command = ["python", "jobs/deploy.py", "--model", model, "--port", address.rsplit(":", 1)[-1]]
            command += ["--dashboard", services.ray.dashboard]
            commands.run("deploy", *command, on_line=self.steps.now)
            step.result = address
        return address

    def request(self, commands: Commands, address: str, clip: Clip) -> Path:
        """Send a clip as a video to the endpoint; returns the folder of the response."""
        video, answer = self.out / "clip.mp4", self.out / "answer"
        with self.steps.step("Send it a clip it has never seen") as step:
            sample.write_video(clip, video)
            commands.run(
                *("ask", "python", "jobs/segment.py", str(video), "--endpoint", address, "--out", str(answer))
            )
            sample.write_sheet(clip, answer, self.out / "result.png")
            step.result = f"{sample.answer_ms(answer):.0f} ms for {len(clip.frames)} frames"
        return answer


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C, `kill` and a closed terminal, also where the shell ignores Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
