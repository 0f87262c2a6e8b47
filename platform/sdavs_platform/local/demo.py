"""`make demo`: from an empty state folder to an answered request, step by step, on this machine."""

import json
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.table import Table

from sdavs_platform.command import FAILED, INTERRUPTED
from sdavs_platform.config.cli import load_config
from sdavs_platform.config.paths import CHECKOUT, state_folder
from sdavs_platform.console import Steps
from sdavs_platform.local import processes, sample, stack, state
from sdavs_platform.local.commands import Commands
from sdavs_platform.local.stack import Ports, Stack
from sdavs_platform.local.training import DemoTraining, Trained

logger = logging.getLogger(__name__)

NUM_STEPS = 8


def run(*, ports: Ports, retrain: bool, from_scratch: bool) -> int:
    """Run the demo; returns the exit status. If it is interrupted, it stops all that this checkout started."""
    home, steps, started = state_folder(), Steps(num_steps=NUM_STEPS), time.monotonic()
    show = steps.console.print
    with _interruptible(), state.lock(home, command="make demo"):
        try:
            Demo(home=home, steps=steps, ports=ports, retrain=retrain, from_scratch=from_scratch).run()
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
                "\nThe demo failed. Ray and MLflow keep running, so that you can look; `make stop` ends them."
            )
            return FAILED
    show(f"\nDone in {time.monotonic() - started:.0f} s.")
    return 0


class Demo:
    """The steps in order; each reuses the results of an earlier run.

    Args:
        home: the state folder.
        steps: shows the progress.
        ports: of what is started.
        retrain: train again even if this config was trained.
        from_scratch: train all of a small model from random weights, which needs no download.
    """

    def __init__(self, *, home: Path, steps: Steps, ports: Ports, retrain: bool, from_scratch: bool) -> None:
        self._home = home
        self._steps = steps
        self._ports = ports
        self._retrain = retrain
        self._config = "jobs/configs/demo_from_scratch.yaml" if from_scratch else "jobs/configs/demo.yaml"
        self._out = home / "demo"
        self._data = home / "data"

    def run(self) -> None:
        """All steps.

        Raises:
            RuntimeError: a step failed; with the end of its output.
            ValueError: a config file is wrong.
        """
        self._out.mkdir(parents=True, exist_ok=True)
        services = self._start()
        commands = Commands(stack=services, home=self._home)
        self._fetch_weights(commands)
        self._prepare(commands)
        trained = self._train(commands, services)
        self._promote(commands, trained)
        report = self._evaluate(commands, trained)
        address = self._deploy(commands, services)
        answer = self._request(commands, address)
        self._summarize(services, address, report, answer)

    def _start(self) -> Stack:
        with self._steps.step("Start Ray and MLflow, or reuse them") as step:
            services = stack.up(ports=self._ports, home=self._home)
            step.result = f"{services.ray.dashboard}  {services.mlflow.uri}"
        return services

    def _fetch_weights(self, commands: Commands) -> None:
        model = load_config([CHECKOUT / self._config]).model
        names = [name for name in (model.backbone_weights, model.audio_weights) if name is not None]
        with self._steps.step("Fetch pretrained encoders") as step:
            if names:
                commands.run(
                    *("weights", "python", "jobs/prepare_weights.py", "fetch", *names),
                    on_line=self._steps.now,
                )
            step.result = ", ".join(names) or "none: everything is trained from scratch"

    def _prepare(self, commands: Commands) -> None:
        with self._steps.step("Compose clips of real photos and sounds") as step:
            commands.run(
                *("prepare", "python", "jobs/prepare_data.py", "--out", str(self._data)),
                on_line=self._steps.now,
            )
            step.result = str(self._data)

    def _train(self, commands: Commands, services: Stack) -> Trained:
        with self._steps.step("Train on Ray, track in MLflow") as step:
            training = DemoTraining(
                configs=[self._config],
                data_stamp=self._data / "Multi-sources" / "realav.json",
                mlflow_uri=services.mlflow.uri,
            )
            trained = training.run(commands, again=self._retrain, on_line=self._training_line)
            how = "" if trained.is_new else ", trained before (RETRAIN=1 trains again)"
            step.result = f"{trained.uri}, validation J {trained.val_miou:.3f}{how}"
        return trained

    def _training_line(self, line: str) -> None:
        # The other lines are Ray's; they are in logs/.
        if line.startswith(("epoch ", "test ", "composing ", "waiting ")):
            self._steps.now(line)

    def _promote(self, commands: Commands, trained: Trained) -> None:
        with self._steps.step("Promote it to champion") as step:
            commands.run("promote", "python", "jobs/promote.py", "--version", str(trained.version))
            step.result = f"models:/{trained.model}@champion is version {trained.version}"

    def _evaluate(self, commands: Commands, trained: Trained) -> dict[str, Any]:
        path = self._out / f"evaluation-{trained.version}.json"
        with self._steps.step("Evaluate: does it listen?") as step:
            if not path.is_file():
                scratch = path.with_suffix(".new")
                command = ["python", "jobs/evaluate.py", "--model", trained.uri, "--data", str(self._data)]
                commands.run(
                    *("evaluate", *command, "--json"),
                    on_line=self._steps.now,
                    answer=scratch,
                )
                scratch.replace(path)
            step.result = str(path)
        return json.loads(path.read_text())

    def _deploy(self, commands: Commands, services: Stack) -> str:
        with self._steps.step("Deploy the endpoint") as step:
            known = state.read(self._home)
            address = known.endpoint
            if address is None:
                port = processes.choose_port(self._ports.endpoint, "the endpoint")
                address = f"http://127.0.0.1:{port}"
            # Written before deploying, so that `make stop` knows of it whatever happens next.
            state.write(self._home, known.model_copy(update={"endpoint": address}))
            command = ["python", "jobs/deploy.py", "--port", address.rsplit(":", 1)[-1]]
            command += ["--dashboard", services.ray.dashboard]
            commands.run("deploy", *command, on_line=self._steps.now)
            step.result = address
        return address

    def _request(self, commands: Commands, address: str) -> Path:
        video, answer = self._out / "clip.mp4", self._out / "answer"
        with self._steps.step("Send it a clip it has never seen") as step:
            clip = sample.choose_clip(self._data, split="test_new_scenes")
            sample.write_video(clip, video)
            commands.run(
                *("ask", "python", "jobs/segment.py", str(video), "--endpoint", address, "--out", str(answer))
            )
            sample.write_sheet(clip, answer, self._out / "result.png")
            step.result = f"{sample.answer_ms(answer):.0f} ms for {len(clip.frames)} frames"
        return answer

    def _summarize(self, services: Stack, endpoint: str, report: dict[str, Any], answer: Path) -> None:
        show = self._steps.console.print
        show()
        for split, rows in report["splits"].items():
            table = Table(title=split, title_justify="left", title_style="bold")
            table.add_column("")
            table.add_column("J", justify="right")
            table.add_column("F", justify="right")
            for row, scores in rows.items():
                table.add_row(row, f"{scores['miou']:.3f}", f"{scores['fscore']:.3f}")
            show(table)
        addresses = {
            "MLflow": services.mlflow.uri,
            "Ray dashboard": services.ray.dashboard,
            "Endpoint": f"{endpoint}/docs",
            "Picture": self._out / "result.png",
            "Masks, overlays": answer,
            "Try it": f"curl -F video=@{self._out / 'clip.mp4'} {endpoint}/v1/segment",
            "Stop everything": "make stop",
        }
        for name, address in addresses.items():
            show(f"  {name:<16} {address}", soft_wrap=True, markup=False)


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
