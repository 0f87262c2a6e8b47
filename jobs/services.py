"""MLflow on Postgres with its artifacts on a server that speaks S3, on this machine: as a team's platform has them.

    make services                      # what users type; prepares the environment first
    python jobs/services.py --s3-port 9100

Prints the environment of those who use them. `make stop` ends them; what they keep stays in the state folder.
"""

import argparse
import shlex
import sys

import _sources

_sources.use_this_checkout()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    ports = parser.add_argument_group(
        "ports on 127.0.0.1; the next free one where another process was faster"
    )
    ports.add_argument("--mlflow-port", type=int, default=5000, help="MLflow (default: %(default)s)")
    ports.add_argument("--postgres-port", type=int, default=5432, help="Postgres (default: %(default)s)")
    ports.add_argument("--s3-port", type=int, default=9000, help="the S3 server (default: %(default)s)")
    flags = parser.parse_args()
    from sdavs_platform.config.paths import state_folder
    from sdavs_platform.local import services, state

    wanted = services.Ports(mlflow=flags.mlflow_port, postgres=flags.postgres_port, s3=flags.s3_port)
    home = state_folder()
    with state.only_one(home, on_wait=lambda: say("another command starts services here; waiting for it")):
        try:
            environment = services.up(ports=wanted, say=say, home=home)
        except RuntimeError as error:
            sys.exit(f"services.py: {error}")
    say("MLflow, Postgres and the S3 server answer; buckets: " + ", ".join(services.BUCKETS))
    for name, value in environment.items():
        print(f"export {name}={shlex.quote(value)}", flush=True)


def say(line: str) -> None:
    """For people: standard output is the environment alone, so that `eval` can take it."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
