"""Serve the included trained model with its web page, without data or training.

    make try                           # what users type; prepares the environment first
    python jobs/try.py --endpoint-port 8001

Starts Ray and MLflow, or reuses them, fetches the pretrained encoders and registers the model as `sdavs-shipped`. The
champion of your own trainings keeps its alias; `python jobs/deploy.py` serves it again.
"""

from _flags import add_stack_ports, job_parser, stack_ports
from _job import run_job


def main() -> int:
    parser = job_parser(__doc__)
    add_stack_ports(parser)
    flags = parser.parse_args()
    from sdavs_platform.local import stack, trial

    ports = stack.Ports(**stack_ports(flags))
    return trial.run(ports=ports)


if __name__ == "__main__":
    run_job(main)
