"""Set an alias of the model registry to a version; the endpoint serves the version with the alias `champion`.

python jobs/promote.py --version latest
python jobs/promote.py --version 3 --alias candidate
python jobs/promote.py --version best          the highest J on the validation split
"""

from _flags import add_tracking_uri, job_parser
from _job import run_job


def main() -> None:
    parser = job_parser(__doc__)
    parser.add_argument("--name", default="sdavs", help="registered model (default: %(default)s)")
    parser.add_argument("--version", default="latest", help="number, latest or best (default: %(default)s)")
    parser.add_argument("--alias", default="champion", help="alias to set (default: %(default)s)")
    add_tracking_uri(parser)
    flags = parser.parse_args()
    from sdavs_platform.tracking.registry import promote

    version = promote(flags.name, flags.version, flags.alias, uri=flags.tracking_uri)
    print(f"models:/{flags.name}@{flags.alias} is now version {version}")


if __name__ == "__main__":
    run_job(main)
