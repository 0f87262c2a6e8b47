"""`make demo`: from an empty state folder to the response to a request, step by step, on this machine."""

import json
import logging
from pathlib import Path
from typing import Any

from rich.table import Table

from sdavs_model.architectures import DEFAULT_ARCHITECTURE
from sdavs_model.metrics import fscore_in_words
from sdavs_platform.config.cli import load_config
from sdavs_platform.config.paths import CHECKOUT, state_folder
from sdavs_platform.console import Steps
from sdavs_platform.local import sample
from sdavs_platform.local.commands import Commands
from sdavs_platform.local.stack import Ports, Stack
from sdavs_platform.local.stages import Stages, run_stages
from sdavs_platform.local.training import DemoTraining, Trained

logger = logging.getLogger(__name__)

NUM_STEPS = 8


def run(*, ports: Ports, retrain: bool, from_scratch: bool, architecture: str) -> int:
    """Run the demo; returns the exit status. If it is interrupted, it stops all that this checkout started."""
    home, steps = state_folder(), Steps(num_steps=NUM_STEPS)
    stages = Stages(home=home, out=home / "demo", steps=steps, ports=ports)
    config = demo_config(architecture, from_scratch=from_scratch)
    demo = Demo(stages, retrain=retrain, config=config)
    return run_stages(demo.run, command="make demo", steps=steps)


def demo_config(architecture: str, *, from_scratch: bool = False) -> str:
    """The demo's YAML file for an architecture, below the checkout."""
    if from_scratch:
        return "jobs/configs/demo_from_scratch.yaml"
    suffix = "" if architecture == DEFAULT_ARCHITECTURE else f"_{architecture}"
    return f"jobs/configs/demo{suffix}.yaml"


def is_evaluation_of(trained: Trained, path: Path) -> bool:
    """Whether a file holds the report of this model. A new registry counts versions from 1 again."""
    return path.is_file() and json.loads(path.read_text())["run_id"] == trained.run_id


class Demo:
    """The steps in order; each reuses the results of an earlier run.

    Args:
        stages: those that it shares with other commands.
        retrain: train again even if this config was trained.
        config: YAML file of the training, below the checkout.
    """

    def __init__(self, stages: Stages, *, retrain: bool, config: str) -> None:
        self._stages = stages
        self._steps = stages.steps
        self._retrain = retrain
        self._config = config
        self._out = stages.out
        self._data = stages.home / "data"

    def run(self) -> None:
        """All steps.

        Raises:
            RuntimeError: a step failed; with the end of its output.
            ValueError: a config file is wrong.
        """
        self._out.mkdir(parents=True, exist_ok=True)
        services = self._stages.start()
        commands = Commands(stack=services, home=self._stages.home)
        model = load_config([CHECKOUT / self._config]).model
        weights = [name for name in (model.backbone_weights, model.audio_weights) if name is not None]
        self._stages.fetch_weights(commands, weights)
        self._prepare(commands)
        trained = self._train(commands, services)
        self._promote(commands, trained)
        report = self._evaluate(commands, trained)
        address = self._stages.deploy(commands, services, model=f"models:/{trained.model}@champion")
        clip = sample.choose_clip(self._data, split="test_new_scenes")
        answer = self._stages.request(commands, address, clip)
        self._summarize(services, address, report, answer)

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
            name = ["--name", trained.model]
            commands.run("promote", "python", "jobs/promote.py", *name, "--version", str(trained.version))
            step.result = f"models:/{trained.model}@champion is version {trained.version}"

    def _evaluate(self, commands: Commands, trained: Trained) -> dict[str, Any]:
        path = self._out / f"evaluation-{trained.model}-{trained.version}.json"
        with self._steps.step("Evaluate: does it listen?") as step:
            if not is_evaluation_of(trained, path):
                scratch = path.with_suffix(".new")
                command = ["python", "jobs/evaluate.py", "--model", trained.uri, "--data", str(self._data)]
                command += ["--processes", "2"]
                commands.run(
                    *("evaluate", *command, "--json"),
                    on_line=self._steps.now,
                    answer=scratch,
                )
                scratch.replace(path)
            step.result = str(path)
        return json.loads(path.read_text())

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
        show(f"  {fscore_in_words(report['videos_per_batch'])}")
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
