"""Running and past trainings and sweeps, from MLflow, a Ray cluster and the storage.

    python jobs/runs.py list                     the newest 20, with the jobs that run
    python jobs/runs.py show demo                checkpoints, scores, error, job
    python jobs/runs.py logs demo                the output of its Ray job
    python jobs/runs.py stop demo                it saves a checkpoint; the same command resumes it

NAME is the name of a training or sweep, the beginning of an MLflow run id, or the id of a Ray job.
"""

import json
import os
import sys

from _flags import add_storage, add_tracking_uri, at_least_one, job_parser
from _job import print_result, run_job


def main() -> None:
    parser = job_parser(__doc__)
    actions = parser.add_subparsers(metavar="ACTION", required=True, title="actions", dest="action")
    for name, about in (
        ("list", "a table of trainings and sweeps, the newest first, and of other Ray jobs that run"),
        ("show", "details of one, as JSON"),
        ("logs", "the output of a submitted job so far"),
        ("stop", "stop a running one; it saves a checkpoint first"),
    ):
        action = actions.add_parser(name, help=about, description=about, allow_abbrev=False)
        if name == "list":
            action.add_argument(
                "--limit", type=at_least_one, default=20, help="how many (default: %(default)s)"
            )
            action.add_argument("--all", action="store_true", help="all of them, and the trials of sweeps")
            action.add_argument("--json", action="store_true", help="print JSON instead of a table")
        else:
            action.add_argument("name", metavar="NAME")
        add_tracking_uri(action)
        add_storage(action)
        action.add_argument(
            "--dashboard",
            metavar="URL",
            default=os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265"),
            help="Ray's dashboard (default: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265)",
        )
    flags = parser.parse_args()
    from dataclasses import asdict

    from sdavs_platform import operations
    from sdavs_platform.config.paths import absolute, state_folder
    from sdavs_platform.tracking.client import tracking_uri

    cluster = operations.RayJobs(flags.dashboard)
    try:
        jobs = cluster.all()
    except ConnectionError as error:
        print(f"{error}; showing only what MLflow and the storage have", file=sys.stderr)
        jobs = []
    uri = tracking_uri(flags.tracking_uri)
    if flags.action == "list":
        entries = operations.overview(
            uri=uri, jobs=jobs, limit=None if flags.all else flags.limit, trials=flags.all
        )
        print_result(
            json.dumps([asdict(each) for each in entries], indent=2)
            if flags.json
            else operations.table(entries)
        )
        return
    entry = operations.find(flags.name, operations.overview(uri=uri, jobs=jobs, trials=True))
    if flags.action == "show":
        storage = absolute(flags.storage or state_folder() / "results")
        print_result(json.dumps(operations.details(entry, storage=storage), indent=2))
    elif flags.action == "logs":
        print_result(operations.logs(entry, cluster).removesuffix("\n"))
    else:
        print_result(operations.stop(entry, cluster))


if __name__ == "__main__":
    run_job(main, logs_to_stderr=True)
