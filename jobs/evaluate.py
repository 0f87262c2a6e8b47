"""Score a registered model by its data set's protocol, with the right, muted and swapped sound.

    python jobs/evaluate.py --model models:/sdavs@champion --data .sdavs/data
    python jobs/evaluate.py --model models:/sdavs-avss/1 --data /data/AVSBench --kind avsbench-avss --mode corrected
    python jobs/evaluate.py --model models:/sdavs/3 --data s3://bucket/S4 --device cuda --workers 8
    python jobs/evaluate.py --model models:/sdavs/3 --blind models:/sdavs-blind/1 --split test_new_scenes

A model that listens scores lower with muted or swapped sound. The table also shows the best
constant mask and, with --blind, a model that was trained on silence. On binary masks it adds off-screen sound, white
noise, AVSBench-Robust's figures, the deaf oracle (every visible object marked) if the data set records what is
visible, and intervals of J by a bootstrap over the photographs and recordings that clips are composed of. The figures
are also logged to the model's MLflow run. docs/listening.md explains them.
"""

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

from _flags import add_device, add_json, add_kind, add_model, add_tracking_uri, job_parser
from _job import print_result, run_job


def main() -> None:
    parser = job_parser(__doc__)
    add_model(parser)
    parser.add_argument("--blind", help="an audio-blind model to compare with")
    parser.add_argument("--data", help="data set folder (default: the bundled data set)")
    add_kind(parser)
    parser.add_argument(
        "--mode",
        default="official",
        choices=("official", "corrected"),
        help="official: as the published scripts compute, quirks included; corrected: without the quirks "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--videos-per-batch",
        type=int,
        default=1,
        choices=(1, 2, 4),
        help="object protocol, official F: number of videos that share a best threshold; AVSBench's test.sh uses 4, "
        "AVSegFormer's configs 2 (default: %(default)s)",
    )
    parser.add_argument(
        "--split",
        action="append",
        help="split to score; may be repeated (default: all whose name starts with test, but not test_strict_wide)",
    )
    parser.add_argument(
        "--train-split", default="train", help="split that gives the constant mask (default: train)"
    )
    add_device(parser)
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="workers of the Ray cluster that share the clips, each with a CPU and, with --device cuda, a GPU; the "
        "figures are the same (default: %(default)s, this process)",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help="splits to score at the same time on this machine, each in a process with its part of the cores; not with "
        "--workers (default: %(default)s)",
    )
    parser.add_argument(
        "--address", help="with --workers: the Ray cluster's HOST:PORT (default: as for jobs/train.py)"
    )
    parser.add_argument(
        "--flips",
        action="store_true",
        help="average predictions with those of mirrored frames; marked as such in the table and in MLflow",
    )
    parser.add_argument(
        "--masks", metavar="FOLDER", help="also write the predicted masks, in the size of the frames"
    )
    add_json(parser)
    parser.add_argument("--no-log", action="store_true", help="log nothing to MLflow")
    add_tracking_uri(parser)
    flags = parser.parse_args()
    from sdavs_platform.evaluation.predictions import write_masks
    from sdavs_platform.evaluation.registered_model import log_results, results_table
    from sdavs_platform.tracking.client import log_or_warn, tracking_uri

    from sdavs_model.cpu_memory import keep_freed_memory

    keep_freed_memory()
    if flags.workers < 1:
        raise ValueError(f"--workers: {flags.workers} is not allowed; allowed: 1 or more")
    if flags.processes < 1 or (flags.processes > 1 and flags.workers > 1):
        raise ValueError(
            f"--processes: {flags.processes} is not allowed; allowed: 1, or with --workers 1 more"
        )
    with contextlib.ExitStack() as joined:
        results = _evaluate(flags, _scorers(flags, joined))
    print_result(json.dumps(results, indent=2) if flags.json else results_table(results))
    if flags.masks:
        write_masks(
            flags.model,
            root=results["data"],
            kind=results["kind"],
            splits=list(results["splits"]),
            folder=Path(flags.masks),
            device=flags.device,
            uri=flags.tracking_uri,
        )
    if not flags.no_log:
        uri = tracking_uri(flags.tracking_uri)
        log_or_warn("the figures", lambda: log_results(results, uri=uri), uri=uri)


def _evaluate(flags: argparse.Namespace, scorers: Any) -> dict[str, Any]:
    from sdavs_platform.evaluation.registered_model import evaluate_registered

    return evaluate_registered(
        flags.model,
        blind_uri=flags.blind,
        root=flags.data,
        kind=flags.kind,
        mode=flags.mode,
        videos_per_batch=flags.videos_per_batch,
        splits=flags.split,
        train_split=flags.train_split,
        device=flags.device,
        uri=flags.tracking_uri,
        scorers=scorers,
        processes=flags.processes,
        flips=flags.flips,
    )


def _scorers(flags: argparse.Namespace, joined: contextlib.ExitStack) -> Any:
    """Workers of the cluster, which is left with `joined`; None for this process alone."""
    if flags.workers == 1:
        return None
    from sdavs_platform.cluster import joined_cluster
    from sdavs_platform.config.cli import load_config
    from sdavs_platform.evaluation.scorers import Scorers

    use_gpu = flags.device.startswith("cuda")
    joined.enter_context(
        joined_cluster(load_config([{"cluster": {"address": flags.address, "use_gpu": use_gpu}}]))
    )
    return Scorers(num_workers=flags.workers, use_gpu=use_gpu, root=flags.data)


if __name__ == "__main__":
    run_job(main, logs_to_stderr=True)
