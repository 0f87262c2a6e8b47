"""What Ray sends to other processes, in a light module: who sends it needs neither DeepSpeed nor the model's libraries.

Ray names a function by its module, which sender and receiver both import; the sender loads seconds of libraries less.
"""

from typing import Any


def train_on_worker(settings: dict[str, Any]) -> None:
    """See `loop.train_worker`."""
    from sdavs_platform.training.loop import train_worker

    train_worker(settings)


def finish_on_worker(checkpoint: Any, **context: Any) -> tuple[dict[str, dict[str, float]], int | None]:
    """See `finish.finish_training`: scores by split, and the registered version."""
    from sdavs_platform.training.finish import finish_training

    return finish_training(checkpoint, **context)
