"""What Ray Serve is told to run, from the endpoint's config: the same on a laptop and in a KubeRay RayService."""

from typing import Any

from sdavs_platform.config.serve import ServeConfig

APPLICATION = "sdavs"


def declaration(config: ServeConfig) -> dict[str, Any]:
    """Serve's declarative config, for its REST API and for a RayService's `serveConfigV2`.

    Every key is written out, also where it is the default: an image with other defaults then changes nothing in an
    endpoint that runs.
    """
    application = {
        "name": APPLICATION,
        "route_prefix": "/",
        "import_path": "sdavs_serve.app:build",
        "args": config.model_dump(mode="json"),
    }
    http_options = {"host": config.host, "port": config.port}
    return {"proxy_location": "EveryNode", "http_options": http_options, "applications": [application]}
