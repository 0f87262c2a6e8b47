"""What `make demo` takes from an earlier run of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sdavs_platform.console import Steps
from sdavs_platform.local.demo import Demo, demo_config
from sdavs_platform.local.stack import Ports
from sdavs_platform.local.stages import Stages
from sdavs_platform.local.training import Trained


class Evaluations:
    """In place of `Commands`: writes a report of the model that the command names."""

    def __init__(self, runs: dict[str, str]) -> None:
        self.runs, self.commands = runs, 0

    def run(self, name: str, *command: str, answer: Path, **options: Any) -> None:
        self.commands += 1
        model = command[command.index("--model") + 1]
        answer.write_text(json.dumps({"model": model, "run_id": self.runs[model]}))


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    steps = Steps(num_steps=1, console=Console(quiet=True))
    stages = Stages(home=tmp_path, out=tmp_path, steps=steps, ports=Ports())
    return Demo(stages, retrain=False, config=demo_config("sdavs"))


def test_a_report_is_used_again_for_the_same_model_and_for_no_other_version_1(demo):
    commands = Evaluations({"models:/sdavs/1": "a", "models:/tpavi/1": "b"})
    first = Trained(model="sdavs", version=1, run_id="a", val_miou=0.4, is_new=True)
    other = Trained(model="tpavi", version=1, run_id="b", val_miou=0.4, is_new=True)
    for trained in (first, other, first):
        assert demo._evaluate(commands, trained)["model"] == trained.uri
    assert commands.commands == 2
    # The state folder's registry was removed, and a model trained again.
    commands.runs["models:/sdavs/1"] = "c"
    again = Trained(model="sdavs", version=1, run_id="c", val_miou=0.4, is_new=True)
    assert demo._evaluate(commands, again)["run_id"] == "c"
