"""Export a checkpoint of a running, killed or finished training, or a registered model, such as the ensemble of a
cross-validation, as an artifact folder that sdavs_model loads.

python jobs/export.py --name demo --out model/
python jobs/export.py --name demo --checkpoint newest --out model/
python jobs/export.py --model models:/sdavs@candidate --out model/
"""

import shutil
from pathlib import Path

from _flags import add_storage, add_tracking_uri, job_parser
from _job import run_job


def main() -> None:
    parser = job_parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--name", help="the training's name")
    what.add_argument("--model", metavar="MODEL", help="a registered model, as it is")
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
    from sdavs_platform.tracking.registry import fetch
    from sdavs_platform.training.export import export_from_storage

    if flags.model:
        shutil.copytree(fetch(flags.model, uri=flags.tracking_uri), flags.out, dirs_exist_ok=True)
        print(f"{flags.out}: {flags.model}")
        return
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
