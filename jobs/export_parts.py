"""Write the trained parts of a model on frozen pretrained encoders to one small file, with a model card.

    python jobs/export_parts.py --model models:/sdavs@champion
    python jobs/export_parts.py --artifact model/ --out parts/mine.safetensors

The file holds the trained weights in fp16 without the encoders, which are fetched by name when the file is loaded
(`sdavs_model.trained_parts`). The card, README.md next to it, gives the scores of exactly this file, combined with the
encoders, on every test split with right, muted and swapped sound.
"""

from pathlib import Path

from _flags import add_model, add_tracking_uri, job_parser
from _job import run_job


def main() -> None:
    parser = job_parser(__doc__)
    add_model(parser)
    parser.add_argument(
        "--artifact",
        type=Path,
        metavar="FOLDER",
        help="a folder that jobs/export.py wrote, instead of --model",
    )
    parser.add_argument("--data", help="data set folder to score on (default: the bundled data set)")
    parser.add_argument("--out", type=Path, help="the file (default: the one that `make try` serves)")
    add_tracking_uri(parser)
    flags = parser.parse_args()
    from sdavs_platform.config.paths import weights_folder
    from sdavs_platform.evaluation.parts_card import export_parts
    from sdavs_platform.tracking.registry import fetch

    from sdavs_model import load_artifact
    from sdavs_model.trained_parts import SHIPPED

    folder = flags.artifact or fetch(flags.model, uri=flags.tracking_uri)
    out = flags.out or SHIPPED
    table = export_parts(load_artifact(folder), out, root=flags.data, weights_folder=weights_folder())
    print(table)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB; its card: {out.with_name('README.md')}")


if __name__ == "__main__":
    run_job(main)
