"""Train SDAVS on a Ray cluster, log to MLflow, register the model.

    ray job submit -- python jobs/train.py                            where Ray was started
    ray job submit --working-dir . -- python jobs/train.py            anywhere
    python jobs/train.py --config jobs/configs/ms3_pvt.yaml --data.root /data/MS3
    python jobs/train.py --config jobs/configs/ms3_pvt.yaml --data.root /data/MS3 --dry-run

Without arguments: jobs/configs/demo.yaml, the bundled photographs and sounds on two CPU workers.
The same --name resumes a training where it stopped. Only one command at a time may train under a name.
"""

import signal
import sys
from pathlib import Path

from _flags import job_parser
from _job import run_job


def main() -> None:
    # `ray job stop` sends SIGTERM; exit in order, so that the run is not shown as running forever.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    from sdavs_platform.config.cli import parse_config

    parser = job_parser(
        __doc__, usage="%(prog)s [--dry-run] [--take-over] [--config FILE ...] [--SECTION.KEY VALUE ...]"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved config, data, steps, resources and expected memory; start nothing",
    )
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="stop another command that trains under the same name, and train instead of it",
    )
    config, flags = parse_config(
        parser,
        default_yaml=Path(__file__).resolve().parent / "configs" / "demo.yaml",
        on_refusal=record_refusal,
    )
    if flags.dry_run:
        from sdavs_platform.training.dry_run import describe

        print(describe(config))
        return
    from sdavs_platform.training.run import train  # Ray and MLflow take seconds: not for --help

    train(config, take_over=flags.take_over)


def record_refusal(message: str) -> None:
    from sdavs_platform.tracking import runs

    runs.record_refusal(message)


if __name__ == "__main__":
    run_job(main, expected=(RuntimeError,))
