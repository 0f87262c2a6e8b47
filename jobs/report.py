"""Build the report of a finished or running sweep: one HTML file, Markdown and CSV.

python jobs/report.py --sweep ablation-demo
python jobs/report.py --sweep lr --storage-uri s3://bucket/results --out report
"""

from pathlib import Path

from _flags import add_storage, job_parser
from _job import run_job


def main() -> None:
    parser = job_parser(__doc__)
    parser.add_argument("--sweep", required=True, metavar="NAME", help="name of the sweep")
    add_storage(parser, flag="--storage-uri")
    parser.add_argument("--out", type=Path, help="folder (default: reports/NAME in the state folder)")
    flags = parser.parse_args()
    from sdavs_platform.config.paths import absolute, state_folder
    from sdavs_platform.tuning.report.build import build_report
    from sdavs_platform.tuning.store import SweepStore

    store = SweepStore(absolute(flags.storage_uri or state_folder() / "results"), flags.sweep)
    print(build_report(store, folder=flags.out).resolve().as_uri())


if __name__ == "__main__":
    run_job(main)
