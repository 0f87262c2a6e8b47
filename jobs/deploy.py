"""Deploy the endpoint on a Ray cluster. Once is enough: it then follows the alias by itself.

    python jobs/deploy.py
    python jobs/deploy.py --port 8001 --serve.max_seconds 600 --serve.rollout.shadow_share 0.5
    python jobs/deploy.py --model models:/sdavs/3                 this version, regardless of the alias

Needs a running Ray (`make demo`, or `ray start --head`) and a registered model. Waits until the version serves, or
reports at which gate it was refused (docs/rollout.md). The endpoint keeps running when this command ends. Then:
curl -F video=@clip.mp4 http://127.0.0.1:8000/v1/segment
"""

import os

from _flags import add_tracking_uri, job_parser
from _job import run_job


def main() -> None:
    parser = job_parser(__doc__)
    what = parser.add_argument_group("what")
    what.add_argument("--model", help="registered model (default: models:/sdavs@champion)")
    add_tracking_uri(what)
    what.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="YAML file; its `serve` section is used. Any key of it is a flag, too: --serve.KEY VALUE "
        "(python jobs/train.py --help explains them all)",
    )
    where = parser.add_argument_group("where")
    where.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    where.add_argument("--port", type=int, help="TCP port (default: 8000)")
    where.add_argument(
        "--dashboard",
        default=os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265"),
        help="Ray's dashboard (default: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265)",
    )
    flags, loose = parser.parse_known_args()
    from sdavs_platform.command import refuse
    from sdavs_platform.config.cli import load_config, overrides_of
    from sdavs_serve.deployment import deploy, wait_ready

    short = {
        "model_uri": flags.model,
        "tracking_uri": flags.tracking_uri,
        "host": flags.host,
        "port": flags.port,
    }
    named = {f"serve.{key}": value for key, value in short.items() if value is not None}
    try:
        config = load_config(flags.config, named | overrides_of({}, loose)).serve
    except ValueError as error:
        refuse(str(error))
    address = deploy(config, dashboard=flags.dashboard)
    print(f"deploying {config.model_uri}", flush=True)
    wait_ready(
        address,
        config,
        dashboard=flags.dashboard,
        api_key=os.environ.get("SDAVS_API_KEY"),
    )
    print(f"{address} serves {config.model_uri}; its pages: {address}/docs")


if __name__ == "__main__":
    run_job(main, expected=(RuntimeError,), when_interrupted="the endpoint keeps running")
