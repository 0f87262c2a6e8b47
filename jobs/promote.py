"""Point an alias of the model registry at a version; `champion` is what the endpoint serves.

python jobs/promote.py --version latest
python jobs/promote.py --version 3 --alias candidate
python jobs/promote.py --version best          the highest J on the validation split
"""

import argparse
import sys

import _sources

_sources.use_this_checkout()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--name", default="sdavs", help="registered model (default: %(default)s)")
    parser.add_argument("--version", default="latest", help="number, latest or best (default: %(default)s)")
    parser.add_argument("--alias", default="champion", help="alias to set (default: %(default)s)")
    parser.add_argument("--tracking-uri", help="MLflow (default: MLFLOW_TRACKING_URI, else the state folder)")
    flags = parser.parse_args()
    from sdavs_platform.tracking.registry import promote

    try:
        version = promote(flags.name, flags.version, flags.alias, uri=flags.tracking_uri)
    except ValueError as error:
        sys.exit(f"promote.py: {error}")
    print(f"models:/{flags.name}@{flags.alias} is now version {version}")


if __name__ == "__main__":
    main()
