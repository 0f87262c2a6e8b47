"""Score a registered model by its data set's protocol: with the right sound, without sound, with other clips' sound.

    python jobs/evaluate.py --model models:/sdavs@champion --data .sdavs/data
    python jobs/evaluate.py --model models:/sdavs-avss/1 --data /data/AVSBench --kind avsbench-avss --mode corrected
    python jobs/evaluate.py --model models:/sdavs/3 --blind models:/sdavs-blind/1 --split test_new_scenes

A model that listens scores lower when muted, and lower still with swapped sound. The table also shows the best
constant mask and, with --blind, a model that was trained on silence. The figures are also logged to the model's
MLflow run.
"""

import argparse
import json
import sys
from pathlib import Path

import _sources

_sources.use_this_checkout()

from sdavs_model.data.datasets import KINDS  # noqa: E402 (the line above makes it importable)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--model", default="models:/sdavs@champion", help="registered model (default: %(default)s)"
    )
    parser.add_argument("--blind", help="an audio-blind model to compare with")
    parser.add_argument("--data", help="data set folder (default: the bundled data set)")
    parser.add_argument(
        "--kind", default="auto", help=f"data set: auto, {', '.join(KINDS)} (default: found from the folder)"
    )
    parser.add_argument(
        "--mode",
        default="official",
        choices=("official", "corrected"),
        help="the published scripts' figures with their quirks, or the same without them (default: %(default)s)",
    )
    parser.add_argument(
        "--videos-per-batch",
        type=int,
        default=1,
        choices=(1, 2, 4),
        help="object protocol, official F: videos that share a best threshold; AVSBench's test.sh takes 4, "
        "AVSegFormer's configs 2 (default: %(default)s)",
    )
    parser.add_argument(
        "--split",
        action="append",
        help="split to score; may be repeated (default: all whose name starts with test)",
    )
    parser.add_argument(
        "--train-split", default="train", help="split that gives the constant mask (default: train)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--masks", metavar="FOLDER", help="also write the masks, in the size of the frames")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--no-log", action="store_true", help="log nothing to MLflow")
    parser.add_argument("--tracking-uri", help="MLflow (default: MLFLOW_TRACKING_URI, else the state folder)")
    flags = parser.parse_args()
    from sdavs_platform import console
    from sdavs_platform.evaluation.predictions import write_masks
    from sdavs_platform.evaluation.registered_model import evaluate_registered, log_results, results_table

    console.configure(to_stderr=True)
    try:
        results = evaluate_registered(
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
        )
        if not flags.no_log:
            log_results(results, uri=flags.tracking_uri)
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
    except ValueError as error:
        sys.exit(f"evaluate.py: {error}")
    print(json.dumps(results, indent=2) if flags.json else results_table(results))


if __name__ == "__main__":
    main()
