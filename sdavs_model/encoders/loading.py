"""Loading pretrained tensors into an encoder; whatever does not fit is listed."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors by name, and where they come from."""

    tensors: Mapping[str, Tensor]
    source: str
    """The file, for errors."""
    field: str
    """The config key that names it, for errors."""

    def renamed(self, tensors: Mapping[str, Tensor]) -> "Weights":
        """The same source with other tensors."""
        return Weights(tensors=tensors, source=self.source, field=self.field)


def load_matching(*, module: nn.Module, weights: Weights) -> None:
    """Load `weights` into `module`, which must be covered completely.

    Raises:
        ValueError: lists every missing, unexpected and wrongly shaped tensor.
    """
    require_fit(weights, module.state_dict())
    module.load_state_dict(weights.tensors, strict=False)


def require_fit(weights: Weights, own: Mapping[str, Tensor]) -> None:
    """Check that `weights` has the names and shapes of `own`; batch counters, which nothing uses, may be missing.

    Raises:
        ValueError: lists every missing, unexpected and wrongly shaped tensor.
    """
    state = weights.tensors
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    reshaped = [
        f"{k} (file {list(state[k].shape)}, model {list(own[k].shape)})"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    if any(faults.values()):
        lines = [f"{len(names)} {what}: {_shorten(names)}" for what, names in faults.items() if names]
        raise ValueError(f"{weights.field}: {weights.source} does not fit: " + "; ".join(lines))


def _shorten(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
