"""A model in bf16 whose batch normalisations stay in fp32.

A running mean in bf16 stops following: with momentum 0.1 a change below 4 % of its value is rounded away. All else that
needs fp32 has it already: softmax and the sums of normalisations are computed in fp32 inside torch's kernels, losses
cast their logits, and the optimizer keeps fp32 weights, in which small updates add up.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert weights and buffers in place, except the running statistics of batch normalisations, which become fp32.

    In bf16 and fp16 these normalisations also use their weights and biases in fp32; the parameters themselves, which
    an engine partitions together with all others, have the shorter format.
    """
    statistics: set[int] = set()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            statistics |= {id(buffer) for buffer in module.buffers(recurse=False)}
            if dtype != torch.float32 and not isinstance(module, _AffineInFp32):
                kind: Any = module.__class__  # mypy takes a class for one that cannot be hashed
                module.__class__ = _in_fp32(kind)
    for parameter in model.parameters():
        # Empty ones are ZeRO-3's, which has converted them.
        parameter.data = parameter.data.to(dtype)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.to(torch.float32 if id(buffer) in statistics else dtype)


class _AffineInFp32:
    """Mixed into a batch normalisation: its forward pass sees fp32 weights and biases."""

    _parameters: dict[str, Tensor | None]

    @property
    def weight(self) -> Tensor | None:
        return _float(self._parameters["weight"])

    @property
    def bias(self) -> Tensor | None:
        return _float(self._parameters["bias"])


def _float(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.float()


@functools.cache
def _in_fp32(kind: Any) -> Any:
    return type(kind.__name__, (_AffineInFp32, kind), {"__module__": kind.__module__})
