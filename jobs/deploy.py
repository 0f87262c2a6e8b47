"""Deploy the endpoint on a Ray cluster, or move it to the version that its model address now means.

    python jobs/deploy.py
    python jobs/deploy.py --model models:/sdavs/3 --port 8001

Needs a running Ray (`make demo`, or `ray start --head`) and a registered model. The endpoint keeps running when
this command ends. Then: curl -F video=@clip.mp4 http://127.0.0.1:8000/v1/segment
"""

import argparse
import os
import sys

import _sources

_sources.use_this_checkout()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    what = parser.add_argument_group("what")
    what.add_argument(
        "--model", default="models:/sdavs@champion", help="registered model (default: %(default)s)"
    )
    what.add_argument("--tracking-uri", help="MLflow (default: MLFLOW_TRACKING_URI, else the state folder)")
    where = parser.add_argument_group("where")
    where.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    where.add_argument("--port", type=int, default=8000, help="TCP port (default: %(default)s)")
    where.add_argument(
        "--dashboard",
        default=os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265"),
        help="Ray's dashboard (default: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265)",
    )
    flags = parser.parse_args()
    from sdavs_platform.config import ServeConfig
    from sdavs_platform.local.token import send_token_if_any

    send_token_if_any()
    from sdavs_serve.app import deploy, wait_ready  # imports Ray, which reads the token's mode once

    config = ServeConfig(
        model_uri=flags.model, host=flags.host, port=flags.port, tracking_uri=flags.tracking_uri
    )
    try:
        address = deploy(config, dashboard=flags.dashboard)
        print(f"deploying {flags.model}", flush=True)
        wait_ready(address, config, dashboard=flags.dashboard)
    except (ValueError, RuntimeError, TimeoutError, ConnectionError) as error:
        sys.exit(f"deploy.py: {error}")
    print(f"{address} serves {flags.model}; its pages: {address}/docs")


if __name__ == "__main__":
    main()
