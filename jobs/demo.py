"""The whole platform on this machine: train, register, promote, evaluate, serve, ask.

    make demo                          # what users type; prepares the environment first
    python jobs/demo.py --retrain

Starts Ray and MLflow, or reuses them. Unlike the other jobs it is not submitted to Ray: it submits
`ray job submit -- python jobs/train.py --config jobs/configs/demo.yaml` and goes on from there.
"""

import argparse
import sys

import _sources

_sources.use_this_checkout()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--retrain", action="store_true", help="train anew although this config was trained")
    parser.add_argument(
        "--stop", action="store_true", help="stop what earlier runs started, and do nothing else"
    )
    ports = parser.add_argument_group(
        "ports on 127.0.0.1; the next free one where another process was faster"
    )
    ports.add_argument("--ray-port", type=int, default=6379, help="Ray (default: %(default)s)")
    ports.add_argument(
        "--dashboard-port", type=int, default=8265, help="its dashboard (default: %(default)s)"
    )
    ports.add_argument("--mlflow-port", type=int, default=5000, help="MLflow (default: %(default)s)")
    ports.add_argument("--endpoint-port", type=int, default=8000, help="the endpoint (default: %(default)s)")
    flags = parser.parse_args()
    from sdavs_platform.local import stack

    if flags.stop:
        stack.down(say=print)
        return 0
    from sdavs_platform.local import demo

    ports_wanted = stack.Ports(
        ray=flags.ray_port,
        dashboard=flags.dashboard_port,
        mlflow=flags.mlflow_port,
        endpoint=flags.endpoint_port,
    )
    return demo.run(ports=ports_wanted, retrain=flags.retrain)


if __name__ == "__main__":
    sys.exit(main())
