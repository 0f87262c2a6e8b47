"""Build the report of a sweep, also while it runs: one HTML file, Markdown and CSV.

python jobs/report.py --sweep ablation-demo
python jobs/report.py --sweep lr --storage-uri s3://bucket/results --out report
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
    parser.add_argument("--sweep", required=True, metavar="NAME", help="name of the sweep")
    parser.add_argument(
        "--storage-uri", help="where the sweep keeps its records (default: `results` in the state folder)"
    )
    parser.add_argument("--out", type=Path, help="folder (default: reports/NAME in the state folder)")
    flags = parser.parse_args()
    from sdavs_platform.config.paths import absolute, state_folder
    from sdavs_platform.tuning.report.build import build_report
    from sdavs_platform.tuning.store import SweepStore

    try:
        store = SweepStore(absolute(flags.storage_uri or state_folder() / "results"), flags.sweep)
        print(build_report(store, folder=flags.out).resolve().as_uri())
    except ValueError as error:
        sys.exit(f"report.py: {error}")


if __name__ == "__main__":
    main()
