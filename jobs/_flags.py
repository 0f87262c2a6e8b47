"""Parsers and flags that several jobs share."""

import argparse
import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from _job import results

Group = argparse.ArgumentParser | argparse._ArgumentGroup


class JobParser(argparse.ArgumentParser):
    """Prints help to the standard output, also of a job that redirects everything else."""

    def print_help(self, file: Any = None) -> None:
        """As argparse's."""
        super().print_help(file or results())


def job_parser(docstring: str | None, **settings: Any) -> argparse.ArgumentParser:
    """A parser that shows the docstring as it is and takes no abbreviated flags."""
    return JobParser(
        description=docstring,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **settings,
    )


def job_with_subcommands(
    docstring: str | None, modules: Mapping[str, ModuleType], *, title: str
) -> argparse.ArgumentParser:
    """A parser with a subcommand a module, each with a docstring, `add_flags(parser)` and `run(flags)`.

    The parsed flags have `run`: `flags.run(flags)` does the work.
    """
    parser = job_parser(docstring)
    subparsers = parser.add_subparsers(metavar=title.upper(), required=True, title=f"{title}s")
    for name, module in modules.items():
        text = (module.__doc__ or "").strip()
        subparser = subparsers.add_parser(
            name,
            help=text.splitlines()[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_flags(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def add_model(group: Group, *, what: str = "registered model") -> None:
    """`--model`, by default the champion."""
    group.add_argument(
        "--model", default="models:/sdavs@champion", metavar="MODEL", help=f"{what} (default: %(default)s)"
    )


def add_device(group: Group) -> None:
    """`--device`."""
    group.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")


def add_training_config(group: Group, default: str, *, what: str = "a training's YAML file") -> None:
    """`--config`, the file of the training that is measured."""
    group.add_argument("--config", default=default, help=f"{what} (default: %(default)s)")


def add_numbers(group: Group, flag: str, default: Sequence[int], what: str, **settings: Any) -> None:
    """A flag that takes one or more whole numbers, such as `--workers 1 2 4`."""
    shown = " ".join(map(str, default))
    group.add_argument(
        flag, type=int, nargs="+", default=list(default), help=f"{what} (default: {shown})", **settings
    )


def add_json(group: Group) -> None:
    """`--json`."""
    group.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_tracking_uri(group: Group) -> None:
    """`--tracking-uri`, the address of MLflow."""
    group.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow (default: MLFLOW_TRACKING_URI, else the state folder)"
    )


def add_storage(group: Group, *, flag: str = "--storage") -> None:
    """`--storage`, where trainings and sweeps keep their files."""
    group.add_argument(
        flag,
        metavar="URI",
        help="folder or s3:// URI of the results (default: `results` in the state folder)",
    )


def add_ports(parser: argparse.ArgumentParser, **defaults: tuple[int, str]) -> None:
    """A `--NAME-port` for each service: name=(default, what it is)."""
    group = parser.add_argument_group("ports on 127.0.0.1; the next free one where one is taken")
    for name, (port, what) in defaults.items():
        group.add_argument(f"--{name}-port", type=int, default=port, help=f"{what} (default: %(default)s)")


STACK_PORTS = {
    "ray": (6379, "Ray"),
    "dashboard": (8265, "its dashboard"),
    "mlflow": (5000, "MLflow"),
    "endpoint": (8000, "the endpoint"),
}


def add_stack_ports(parser: argparse.ArgumentParser) -> None:
    """The ports of `sdavs_platform.local.stack.Ports`."""
    add_ports(parser, **STACK_PORTS)


def stack_ports(flags: argparse.Namespace) -> dict[str, int]:
    """The values of `add_stack_ports`, by the names of `Ports`."""
    return {name: getattr(flags, f"{name}_port") for name in STACK_PORTS}


def add_reading(parser: argparse.ArgumentParser) -> None:
    """The flags of a command that reads a whole data set: which, with how many threads, and `--json`."""
    add_data_set(parser)
    how = parser.add_argument_group("how")
    add_workers(how, "threads that read")
    add_json(how)


def add_workers(group: Group, what: str) -> None:
    """`--workers`, the number of processes or threads."""
    cpus = len(os.sched_getaffinity(0))
    group.add_argument(
        "--workers", type=at_least_one, default=cpus, help=f"{what} (default: one per CPU, {cpus})"
    )


def add_data_set(parser: argparse.ArgumentParser) -> None:
    """`ROOT`, `--kind` and `--num-frames`: which data set."""
    what = parser.add_argument_group("which data set")
    what.add_argument("root", metavar="ROOT", help="its folder, or s3://bucket/folder as `upload` wrote it")
    add_kind(what)
    what.add_argument(
        "--num-frames",
        type=int,
        help="seconds of a clip (default: the benchmark's, 10 for AVSS, 3 for VPO, else 5)",
    )


def add_kind(group: Group) -> None:
    """`--kind`, the kind of the data set."""
    from sdavs_model.data.datasets import KINDS

    group.add_argument(
        "--kind", default="auto", help=f"auto (found from the folder), {', '.join(KINDS)} (default: auto)"
    )


def at_least_one(text: str) -> int:
    """A flag's whole number from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)
