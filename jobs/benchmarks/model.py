"""Parameters, multiply-accumulates and speed of the model, compared with the paper's Table X.

    python jobs/benchmark.py model                                          Swin-B, the rows of Table X
    python jobs/benchmark.py model --backbone pvt_v2_b5 --recipes full      the other model of the paper
    python jobs/benchmark.py model --config jobs/configs/demo.yaml          the model of a training
    python jobs/benchmark.py model --no-speed --json                        only counts, as JSON
    python jobs/benchmark.py model --backbone pvt_v2_b5 swin_base_patch4_window12_384 --out efficiency --log

VGGish's parameters are not counted, as in the paper; inference on one clip of five frames.
"""

import argparse
import json
import logging
from pathlib import Path

from _flags import add_device, add_json, add_tracking_uri
from _job import print_result

logger = logging.getLogger("sdavs_platform.benchmarks")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `benchmark.py model`."""
    what = parser.add_argument_group("what is measured")
    what.add_argument("--config", help="a training's YAML file whose model to measure")
    what.add_argument(
        "--backbone",
        nargs="+",
        metavar="NAME",
        help="timm names (default: the config's, else swin_base_patch4_window12_384)",
    )
    what.add_argument("--image-size", type=int, help="side in pixels (default: the config's, else 384)")
    what.add_argument(
        "--recipes",
        nargs="+",
        metavar="NAME",
        help="recipes of sdavs_model.recipes, or `all` (default: the rows of Table X; with --config as configured)",
    )
    speed = parser.add_argument_group("speed")
    speed.add_argument("--no-speed", action="store_true", help="count only")
    add_device(speed)
    speed.add_argument("--threads", type=int, help="CPU threads of torch (default: torch's own choice)")
    speed.add_argument("--repeats", type=int, default=3, help="pairs of timed runs (default: %(default)s)")
    where = parser.add_argument_group("where it goes")
    add_json(where)
    where.add_argument("--out", type=Path, help="folder for efficiency.png (Fig. 9) and efficiency.json")
    where.add_argument("--log", action="store_true", help="also log to MLflow, as a separate run")
    add_tracking_uri(where)


def run(flags: argparse.Namespace) -> None:
    """Measure and print."""
    from sdavs_platform.benchmarks.efficiency import log_results, measure, results_table, write_results
    from sdavs_platform.tracking.client import log_or_warn, tracking_uri

    report = measure(
        config=flags.config,
        backbones=flags.backbone,
        image_size=flags.image_size,
        recipe_names=flags.recipes,
        speed=not flags.no_speed,
        device=flags.device,
        num_threads=flags.threads,
        repeats=flags.repeats,
    )
    if flags.out:
        write_results(report, flags.out)
        logger.info(f"{flags.out}: efficiency.png, efficiency.json")
    print_result(json.dumps(report, indent=2) if flags.json else results_table(report))
    if flags.log:
        uri = tracking_uri(flags.tracking_uri)
        log_or_warn("the figures", lambda: logger.info(f"MLflow run {log_results(report, uri=uri)}"), uri=uri)
