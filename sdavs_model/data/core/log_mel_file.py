"""AVSBench's audio_log_mel files: pickled tensors, read without running what a pickle may contain."""

import collections
import io
import pickle
from pathlib import Path

import torch


def read_log_mel(path: Path, num_frames: int) -> torch.Tensor:
    """Read one `audio_log_mel/<split>/<video>.pkl` of AVSBench.

    A pickle is a program. These files are plain pickles of one tensor, which `torch.load(weights_only=True)`
    does not open; so the three names such a pickle needs are allowed, any other is refused before it runs.

    Returns:
        [T, 1, 96, 64] float32.

    Raises:
        ValueError: missing, corrupt, of another shape, or anything but a tensor; the message names the file.
    """
    try:
        with path.open("rb") as file:
            tensor = _TensorUnpickler(file).load()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such log-mel file") from None
    except Exception as error:  # a hostile or damaged pickle can raise anything
        raise ValueError(f"{path}: not a pickled tensor ({error})") from error
    if not isinstance(tensor, torch.Tensor) or tensor.shape != (num_frames, 1, 96, 64):
        shape = list(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise ValueError(f"{path}: expected a log-mel tensor [{num_frames}, 1, 96, 64], found {shape}")
    return tensor.detach().float()


class _TensorUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        allowed = {
            ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
            ("torch.storage", "_load_from_bytes"): _load_storage,
            ("collections", "OrderedDict"): collections.OrderedDict,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"refused to run {module}.{name}")
        return allowed[module, name]


def _load_storage(data: bytes) -> object:
    """torch's own loader of a pickled storage, but with its restricted unpickler."""
    return torch.load(io.BytesIO(data), weights_only=True)
