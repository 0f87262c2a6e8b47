"""Train SDAVS on a Ray cluster, log to MLflow, register the model.

    ray job submit -- python jobs/train.py                            where Ray was started
    ray job submit --working-dir . -- python jobs/train.py            anywhere
    python jobs/train.py --config jobs/configs/ms3_pvt.yaml --data.root /data/MS3

Without arguments: jobs/configs/demo.yaml, the bundled photographs and sounds on two CPU workers.
The same --name resumes where it stopped.
"""

import signal
import sys
from pathlib import Path

import _sources

_sources.use_this_checkout()

from sdavs_platform import console  # noqa: E402
from sdavs_platform.config.cli import parse_config  # noqa: E402


def main() -> None:
    # `ray job stop` sends SIGTERM; leave in order, so that the run is not shown as running forever.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console.configure()
    config = parse_config(
        description=__doc__,
        default_yaml=Path(__file__).resolve().parent / "configs" / "demo.yaml",
        on_refusal=record_refusal,
    )
    from sdavs_platform.training.run import train  # Ray and MLflow take seconds: not for --help

    try:
        train(config)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"train.py: {error}")


def record_refusal(message: str) -> None:
    from sdavs_platform.tracking import runs

    runs.record_refusal(message)


if __name__ == "__main__":
    main()
