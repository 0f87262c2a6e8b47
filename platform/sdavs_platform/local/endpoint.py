"""What the stack must know of Serve on a Ray that is not ours. Deploying is `jobs/deploy.py`'s work."""

from typing import Any

APPLICATION = "sdavs"


def other_applications(dashboard: str) -> list[str]:
    """Names of the Serve applications that are not ours; deploying ours would remove them."""
    return [
        name for name in _client(dashboard).get_serve_details().get("applications", {}) if name != APPLICATION
    ]


def remove(dashboard: str) -> None:
    """Take the endpoint, and Serve with it, off a Ray that goes on running."""
    _client(dashboard).delete_applications()


def _client(dashboard: str) -> Any:
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient  # imports half of Ray

    return ServeSubmissionClient(dashboard)
