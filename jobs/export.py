"""Turn a checkpoint of a training, running, killed or finished, into an artifact folder that sdavs_model loads.

python jobs/export.py --name demo --out model/
python jobs/export.py --name demo --checkpoint newest --out model/
"""

import argparse
import sys
from pathlib import Path

import _sources

_sources.use_this_checkout()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--name", required=True, help="the training's name")
    parser.add_argument("--out", required=True, type=Path, help="folder for the artifact")
    parser.add_argument(
        "--checkpoint",
        default="best",
        help="best by validation J, newest, or a checkpoint's own name (default: %(default)s)",
    )
    parser.add_argument(
        "--storage", help="folder or s3:// URI of the checkpoints (default: the state folder's)"
    )
    parser.add_argument("--tracking-uri", help="MLflow (default: MLFLOW_TRACKING_URI, else the state folder)")
    flags = parser.parse_args()
    from sdavs_platform.config.paths import absolute, state_folder
    from sdavs_platform.tracking.client import tracking_uri
    from sdavs_platform.training.export import export_from_storage

    try:
        told = export_from_storage(
            flags.name,
            storage=absolute(flags.storage or state_folder() / "results"),
            uri=tracking_uri(flags.tracking_uri),
            out=flags.out,
            checkpoint=flags.checkpoint,
        )
    except ValueError as error:
        sys.exit(f"export.py: {error}")
    print(f"{flags.out}: {flags.name} after step {told['step']}, epoch {told['epoch']}")


if __name__ == "__main__":
    main()
