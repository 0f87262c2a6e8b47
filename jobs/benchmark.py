"""Measure this machine and this code: one subcommand for each subject.

    python jobs/benchmark.py model                    parameters, MACs and speed, and the paper's Table X
    python jobs/benchmark.py data                     clips/s of the data loader and of a training step
    python jobs/benchmark.py serve                    the endpoint at rising load, and the bare model
    python jobs/benchmark.py sweep                    cost per trial of the driver of a sweep
    python jobs/benchmark.py scaling                  cost of a step by workers and ZeRO stage; predictions for GPUs
    python jobs/benchmark.py model --help             its flags; every subcommand has its own

A subcommand is a module in benchmarks/ with a docstring, `add_flags(parser)` and `run(flags)`.
"""

import sys

import _sources
import benchmarks.data
import benchmarks.model
import benchmarks.scaling
import benchmarks.serve
import benchmarks.sweep
from _subcommands import parser_of

_sources.use_this_checkout()

from sdavs_platform import console  # noqa: E402 (the line above makes it importable)

SUBCOMMANDS = {
    "data": benchmarks.data,
    "model": benchmarks.model,
    "scaling": benchmarks.scaling,
    "serve": benchmarks.serve,
    "sweep": benchmarks.sweep,
}


def main() -> None:
    flags = parser_of(__doc__ or "", SUBCOMMANDS, title="subject").parse_args()
    console.configure(to_stderr=True)
    try:
        flags.run(flags)
    except ValueError as error:
        sys.exit(f"benchmark.py: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    main()
