"""Measure this machine and this code: one subcommand for each subject.

    python jobs/benchmark.py model                    parameters, MACs and speed, and the paper's Table X
    python jobs/benchmark.py data                     clips/s of the data loader and of a training step
    python jobs/benchmark.py serve                    the endpoint under increasing load, and the bare model
    python jobs/benchmark.py sweep                    cost per trial of the driver of a sweep
    python jobs/benchmark.py recovery                 seconds to the first step and after a killed worker
    python jobs/benchmark.py scaling                  cost of a step by workers and ZeRO stage; predictions for GPUs
    python jobs/benchmark.py training                 a training step, compared with a bare PyTorch loop
    python jobs/benchmark.py all                      most of these, into one file of benchmarks/results/
    python jobs/benchmark.py model --help             its flags; every subcommand has its own

A subcommand is a module in benchmarks/ with a docstring, `add_flags(parser)` and `run(flags)`.
"""

import benchmarks.all
import benchmarks.data
import benchmarks.model
import benchmarks.recovery
import benchmarks.scaling
import benchmarks.serve
import benchmarks.sweep
import benchmarks.training
from _flags import job_with_subcommands
from _job import run_job

SUBCOMMANDS = {
    "all": benchmarks.all,
    "data": benchmarks.data,
    "model": benchmarks.model,
    "recovery": benchmarks.recovery,
    "scaling": benchmarks.scaling,
    "serve": benchmarks.serve,
    "sweep": benchmarks.sweep,
    "training": benchmarks.training,
}


def main() -> None:
    flags = job_with_subcommands(__doc__, SUBCOMMANDS, title="subject").parse_args()
    flags.run(flags)


if __name__ == "__main__":
    run_job(main, logs_to_stderr=True)
