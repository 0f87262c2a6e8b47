"""Run the paper's analyses on a registered model; figures and plots are written to disk and MLflow.

    python jobs/analyse.py noise --without-snrp models:/sdavs-without-snrp/1
    python jobs/analyse.py all --model models:/sdavs@champion --split test_strict

Each analysis writes report.json, report.txt, clips.csv and its plots to its own folder, logs them below
analysis/ of the MLflow run that trained the model, and prints its table. docs/analyses.md explains every figure.
"""

import argparse

from _flags import add_device, add_json, add_model, add_tracking_uri, job_parser
from _job import print_result, run_job

ABOUT = {
    "noise": "J and F under Brownian and moving-train noise, with and without SNRP (Table IX), and over SNRs",
    "consistency": "CKA, KL and JS between audio and visual streams before and after DAMF (Table VII)",
    "maps": "feature maps and Grad-CAM before SNRP, after CFS and after SFS (figure 5)",
    "attention": "attention in both directions, and both streams before and after DAMF (figure 6)",
    "response": "distribution of SNRP's responses over space and channels (figure 8)",
    "listening": "right, no, swapped, off-screen sound and noise alone, AVSBench-Robust (beyond the paper)",
    "elimination": "do DDESeg's scores separate sounds on screen from those off screen? (beyond the paper)",
    "all": "all of these that apply to the model; the others are listed",
}


def main() -> None:
    parser = job_parser(__doc__)
    subparsers = parser.add_subparsers(metavar="ANALYSIS", dest="analysis", required=True, title="analyses")
    for name, about in ABOUT.items():
        subparser = subparsers.add_parser(name, help=about, description=about, allow_abbrev=False)
        _add_flags(subparser, name)
    flags = vars(parser.parse_args())
    name, as_json = flags.pop("analysis"), flags.pop("json")
    from sdavs_platform.analysis.result import AnalysisResult
    from sdavs_platform.analysis.result import as_json as to_json
    from sdavs_platform.analysis.suite import NAMES, Request, analyse

    def show(result: AnalysisResult) -> None:
        if not as_json:
            print_result(f"{result.name}\n{result.table}\n")
        elif name != "all":
            print_result(to_json(result.numbers))

    results, left_out = analyse(Request(names=NAMES if name == "all" else (name,), **flags), show=show)
    if as_json and name == "all":
        numbers = {key: result.numbers for key, result in results.items()}
        print_result(to_json(numbers | {"left_out": left_out}))


def _add_flags(parser: argparse.ArgumentParser, name: str) -> None:
    what = parser.add_argument_group("what is analysed")
    add_model(what, what="registered model, or the folder of a model artifact")
    what.add_argument("--data", metavar="FOLDER", help="data set folder (default: the bundled data set)")
    what.add_argument("--split", help="split of it (default: the first whose name starts with test)")
    what.add_argument(
        "--limit", type=int, metavar="CLIPS", help="number of clips, spread evenly (default: all)"
    )
    if name in ("noise", "all"):
        noise = parser.add_argument_group("noise")
        noise.add_argument(
            "--without-snrp",
            metavar="MODEL",
            help="a model trained without SNRP to compare with (default: none)",
        )
        noise.add_argument(
            "--train-noise",
            metavar="FILE",
            help="recording of a moving train (default: a bundled one, not used in training)",
        )
    if name in ("maps", "attention", "response", "all"):
        drawing = parser.add_argument_group("plots")
        drawing.add_argument(
            "--level",
            type=int,
            default=1,
            help="level to plot, from 1, the largest map, to 4; figures cover all levels (default: 1)",
        )
    how = parser.add_argument_group("how")
    add_device(how)
    how.add_argument("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")
    where = parser.add_argument_group("where the results go")
    where.add_argument(
        "--out",
        metavar="FOLDER",
        help="parent of one folder per analysis, <analysis>-<model>-<version> (default: analysis/ in the state folder)",
    )
    add_json(where)
    where.add_argument("--no-log", dest="log", action="store_false", help="log nothing to MLflow")
    add_tracking_uri(where)


if __name__ == "__main__":
    run_job(main, logs_to_stderr=True)
