"""Create, list and revoke API keys of the endpoint.

    python jobs/keys.py add --scope segment --note "phone app"
    python jobs/keys.py add --days 90 --per-minute 30 --per-day 2000 --at-once 2
    python jobs/keys.py list
    python jobs/keys.py remove 1f2e3d4c

A key is printed only once; the file stores its SHA-256. A running endpoint rereads the file by itself. Keys are
required unless the endpoint listens on a loopback address: curl -H "Authorization: Bearer sdavs_..." ...
"""

from pathlib import Path

from _flags import job_parser
from _job import run_job


def main() -> None:
    parser = job_parser(__doc__)
    parser.add_argument("--file", type=Path, help="key file (default: keys.json in the state folder)")
    actions = parser.add_subparsers(metavar="ACTION", required=True, title="actions", dest="action")
    add = actions.add_parser("add", help="create a key and print it")
    add.add_argument(
        "--scope",
        choices=("segment", "admin"),
        default="segment",
        help="segment: send clips; admin: also read the rollout and the metrics (default: %(default)s)",
    )
    add.add_argument("--note", default="", help="a note, such as the owner")
    add.add_argument("--days", type=float, help="number of days until the key expires (default: never)")
    add.add_argument(
        "--at-once", type=int, help="clips that may be processed at the same time (default: no limit)"
    )
    add.add_argument("--per-minute", type=int, help="clips per minute (default: no limit)")
    add.add_argument("--per-day", type=int, help="clips per day (UTC) (default: no limit)")
    actions.add_parser("list", help="list ids, scopes and limits of all keys")
    remove = actions.add_parser("remove", help="revoke a key")
    remove.add_argument("id", help="its id, as shown by list")
    flags = parser.parse_args()
    from sdavs_platform.config.tree import ServeConfig
    from sdavs_serve.http.keys import KeyFile

    keys = KeyFile(flags.file) if flags.file else KeyFile.of(ServeConfig())
    if flags.action == "add":
        limits = {name: getattr(flags, name) for name in ("days", "at_once", "per_minute", "per_day")}
        print(keys.add(flags.scope, note=flags.note, **limits))
    elif flags.action == "remove":
        keys.remove(flags.id)
    else:
        for key in keys.entries():
            print(f"{key.id}  {key.scope:<8} {key.limits():<40} {key.note}")


if __name__ == "__main__":
    run_job(main)
