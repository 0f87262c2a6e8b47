"""Measure this machine and this code: one subcommand for each subject.

    python jobs/benchmark.py model                    parameters, MACs and speed beside the paper's Table X
    python jobs/benchmark.py model --help             its flags; every subcommand has its own

A subcommand is a module beside this file with a docstring, `add_flags(parser)` and `run(flags)`.
"""

import argparse
import sys

import _benchmark_model
import _sources

_sources.use_this_checkout()

SUBCOMMANDS = {
    "model": _benchmark_model,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    subparsers = parser.add_subparsers(metavar="SUBJECT", required=True, title="subjects")
    for name, module in SUBCOMMANDS.items():
        about = (module.__doc__ or "").strip()
        subparser = subparsers.add_parser(
            name,
            help=about.splitlines()[0],
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_flags(subparser)
        subparser.set_defaults(run=module.run)
    flags = parser.parse_args()
    try:
        flags.run(flags)
    except ValueError as error:
        sys.exit(f"benchmark.py: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    main()
