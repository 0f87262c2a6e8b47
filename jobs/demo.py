"""Run the whole platform on this machine: train, register, promote, evaluate, serve, send a request.

    make demo                          # what users type; prepares the environment first
    python jobs/demo.py --retrain
    python jobs/demo.py --model tpavi      # the same with another architecture

Starts Ray and MLflow, or reuses them. Unlike the other jobs it is not submitted to Ray: it submits
`ray job submit -- python jobs/train.py --config jobs/configs/demo.yaml` and continues from there.
"""

from _flags import add_stack_ports, job_parser, stack_ports
from _job import run_job

from sdavs_model.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE, find_architecture


def main() -> int:
    parser = job_parser(__doc__)
    parser.add_argument(
        "--retrain", action="store_true", help="train again even if this config has been trained"
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_ARCHITECTURE,
        metavar="NAME",
        help=f"architecture: {', '.join(ARCHITECTURES)} (default: %(default)s)",
    )
    parser.add_argument(
        "--from-scratch",
        action="store_true",
        help="train a small model from random weights instead of SDAVS's parts on pretrained encoders; no download",
    )
    parser.add_argument("--stop", action="store_true", help="only stop what earlier runs started")
    add_stack_ports(parser)
    flags = parser.parse_args()
    try:
        find_architecture(flags.model)
    except ValueError as error:
        parser.error(f"--model: {str(error).removeprefix('architecture: ')}")
    if flags.from_scratch and flags.model != DEFAULT_ARCHITECTURE:
        parser.error(f"--from-scratch: only for --model {DEFAULT_ARCHITECTURE}")
    from sdavs_platform.local import stack

    if flags.stop:
        stack.down()
        return 0
    from sdavs_platform.local import demo

    ports = stack.Ports(**stack_ports(flags))
    return demo.run(
        ports=ports, retrain=flags.retrain, from_scratch=flags.from_scratch, architecture=flags.model
    )


if __name__ == "__main__":
    run_job(main)
