"""One job with subcommands, each a module with a docstring, `add_flags(parser)` and `run(flags)`."""

import argparse
import os
from collections.abc import Mapping
from types import ModuleType


def parser_of(about: str, modules: Mapping[str, ModuleType], *, title: str) -> argparse.ArgumentParser:
    """The parser; `flags.run(flags)` of what it returns does the work."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
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


def add_workers(group: argparse._ArgumentGroup, what: str) -> None:
    """`--workers`, the number of processes or threads."""
    cpus = len(os.sched_getaffinity(0))
    group.add_argument(
        "--workers", type=_at_least_one, default=cpus, help=f"{what} (default: the CPUs at hand, {cpus})"
    )


def add_data_set(parser: argparse.ArgumentParser) -> None:
    """`ROOT`, `--kind` and `--num-frames`: which data set."""
    from sdavs_model.data.datasets import KINDS

    what = parser.add_argument_group("which data set")
    what.add_argument("root", metavar="ROOT", help="its folder, or s3://bucket/folder as `upload` wrote it")
    what.add_argument(
        "--kind", default="auto", help=f"auto (found from the folder), {', '.join(KINDS)} (default: auto)"
    )
    what.add_argument(
        "--num-frames",
        type=int,
        help="seconds of a clip (default: the benchmark's, 10 for AVSS, 3 for VPO, else 5)",
    )


def _at_least_one(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return int(text)
