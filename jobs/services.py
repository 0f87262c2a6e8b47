"""Start MLflow on Postgres with artifacts on an S3 server on this machine, as a team would use it.

    make services                      # what users type; prepares the environment first
    python jobs/services.py --s3-port 9100

Prints the environment variables to export. `make stop` ends the servers; their data stays in the state folder.
"""

import shlex

from _flags import add_ports, job_parser
from _job import print_result, run_job


def main() -> None:
    parser = job_parser(__doc__)
    add_ports(parser, mlflow=(5000, "MLflow"), postgres=(5432, "Postgres"), s3=(9000, "the S3 server"))
    flags = parser.parse_args()
    from sdavs_platform.local import services

    environment = services.run(
        services.Ports(mlflow=flags.mlflow_port, postgres=flags.postgres_port, s3=flags.s3_port)
    )
    for name, value in environment.items():
        print_result(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    # Standard output is the environment alone, so that `eval` can take it.
    run_job(main, logs_to_stderr=True, expected=(RuntimeError,))
