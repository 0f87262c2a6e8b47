"""A model artifact as MLflow's `python_function`: `mlflow.pyfunc.load_model` and `mlflow models serve` load it here.

MLflow calls `_load_pyfunc` by name; nothing here needs MLflow. Inputs are preprocessed as the signature says, so this
is for batch jobs and for trying a version out; the endpoint takes videos.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdavs_model.artifact import LoadedModel, load_artifact


class PyFunc:
    """Adapts a model to MLflow's `predict`."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    @torch.inference_mode()
    def predict(
        self, inputs: Mapping[str, np.ndarray], params: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Mask logits.

        Args:
            inputs: frames [B, T, 3, S, S], normalised, and log_mel [B, T, 1, 96, 64], both float32.
            params: none are known.

        Returns:
            {"logits": [B, T, K, S, S] float32}.
        """
        frames, log_mel = (torch.from_numpy(np.asarray(inputs[name])) for name in ("frames", "log_mel"))
        return {"logits": self._loaded.model(frames, log_mel).numpy()}


def _load_pyfunc(path: str) -> PyFunc:
    """The model of an artifact's folder, after verification. MLflow looks for this name."""
    return PyFunc(load_artifact(Path(path)))
