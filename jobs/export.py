"""Export a checkpoint of a running, killed or finished training as an artifact folder that sdavs_model loads.

python jobs/export.py --name demo --out model/
python jobs/export.py --name demo --checkpoint newest --out model/
"""

from pathlib import Path

from _flags import add_storage, add_tracking_uri, job_parser
from _job import run_job


def main() -> None:
    parser = job_parser(__doc__)
    parser.add_argument("--name", required=True, help="the training's name")
    parser.add_argument("--out", required=True, type=Path, help="folder for the artifact")
    parser.add_argument(
        "--checkpoint",
        default="best",
        help="best by the validation (training.select_by), newest, or a checkpoint's own name (default: %(default)s)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest allowed difference of logits from the training's, relative to the largest logit, in fp32 "
        "(default: the training's consolidation_tolerance); raise it to export on another kind of device",
    )
    add_storage(parser)
    add_tracking_uri(parser)
    flags = parser.parse_args()
    from sdavs_platform.config.paths import absolute, state_folder
    from sdavs_platform.tracking.client import tracking_uri
    from sdavs_platform.training.export import export_from_storage

    exported = export_from_storage(
        flags.name,
        storage=absolute(flags.storage or state_folder() / "results"),
        uri=tracking_uri(flags.tracking_uri),
        out=flags.out,
        checkpoint=flags.checkpoint,
        tolerance=flags.tolerance,
    )
    print(f"{flags.out}: {flags.name} after step {exported['step']}, epoch {exported['epoch']}")


if __name__ == "__main__":
    run_job(main)
