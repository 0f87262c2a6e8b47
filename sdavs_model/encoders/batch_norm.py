"""Batch normalisation: with the statistics of all workers in training, and folded into convolutions for inference."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional

from sdavs_model.lean_timm import timm

FOLDED = (nn.BatchNorm2d, timm.layers.BatchNormAct2d)
"""The normalisations that `fold_batch_norms` folds."""


class SharedBatchNorm(nn.BatchNorm1d):
    """In one process `nn.BatchNorm1d`; in a process group the same, with the statistics of all its workers.

    Any split of a batch over workers then computes what one process would, gradients and running statistics
    included. `nn.SyncBatchNorm` does this on GPUs alone; a sum that can be differentiated does it on both.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C] -> [N, C]; when training, all workers have to call this together.

        A single row has no variance: it is normalised by the running statistics, which then stay as they are.
        """
        assert self.running_mean is not None
        assert self.running_var is not None
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            if self.training and len(x) == 1:
                mean, var = self.running_mean, self.running_var
                return functional.batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps)
            return super().forward(x)
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        whole = x.float()
        # Workers may have different numbers of rows, so the count is summed, too.
        sums = all_reduce(torch.cat([whole.sum(0), whole.new_full((1,), len(x))]))
        num_rows = sums[-1]
        is_single = num_rows == 1
        mean = torch.where(is_single, self.running_mean, sums[:-1] / num_rows)
        var = all_reduce((whole - mean).square().sum(0)) / num_rows
        var = torch.where(is_single, self.running_var, var)
        with torch.no_grad():
            unbiased = torch.where(is_single, var, var * num_rows / (num_rows - 1).clamp_min(1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked += 1
        normed = (whole - mean) * torch.rsqrt(var + self.eps)
        return (normed * self.weight + self.bias).to(x.dtype)


@torch.no_grad()
def fold_batch_norms(module: nn.Module, example: Tensor) -> int:
    """Fold each batch normalisation into the convolution whose output it normalises, in place.

    In eval mode a batch normalisation is a factor and an offset for each channel, which the convolution's weights can
    contain. The outputs change by rounding alone. Which convolution comes before which normalisation is observed in a
    forward pass, as the order in which a network registers its modules need not be the order in which it runs them.

    Args:
        module: in eval mode; its weights are not trained afterwards.
        example: an input of `module`.

    Returns:
        The number of folded normalisations. Those of other classes than torch's `BatchNorm2d` and timm's
        `BatchNormAct2d`, and those without a convolution of their own, stay.
    """
    assert not module.training
    before = _convolutions_before(module, example)
    for name, norm in list(module.named_modules()):
        if norm in before:
            _absorb(before[norm], norm)
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, _rest_of(norm))
    return len(before)


def _convolutions_before(module: nn.Module, example: Tensor) -> dict[nn.Module, nn.Conv2d]:
    """By normalisation, the convolution that made its input; both run once, and no other module reads that output."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    found: dict[nn.Module, nn.Conv2d] = {}
    calls: dict[nn.Module, int] = {}
    readers: dict[int, int] = {}

    def before(part: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls[part] = calls.get(part, 0) + 1
        for each in inputs:
            is_norm = type(part) in FOLDED
            if id(each) in made and (is_norm or not list(part.children())):
                readers[id(each)] = readers.get(id(each), 0) + 1
                if is_norm:
                    found[part] = made[id(each)][0]

    def after(part: nn.Module, _: Any, output: Any) -> None:
        if isinstance(part, nn.Conv2d):
            made[id(output)] = (part, output)  # kept, so that no other tensor gets its id

    hooks = []
    for part in module.modules():
        hooks.append(part.register_forward_pre_hook(before))
        hooks.append(part.register_forward_hook(after))
    try:
        module(example)
    finally:
        for hook in hooks:
            hook.remove()
    read_once = {conv for key, (conv, _) in made.items() if readers.get(key) == 1}
    return {
        norm: conv
        for norm, conv in found.items()
        if conv in read_once and calls[norm] == 1 and calls[conv] == 1
    }


def _absorb(conv: nn.Conv2d, norm: Any) -> None:
    factor = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight
    offset = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    offset = offset * factor
    if norm.bias is not None:
        offset = offset + norm.bias
    conv.weight.mul_(factor[:, None, None, None])
    conv.bias = nn.Parameter(offset, requires_grad=False)


def _rest_of(norm: nn.Module) -> nn.Module:
    """What a normalisation does after normalising."""
    return (
        nn.Sequential(norm.drop, norm.act) if isinstance(norm, timm.layers.BatchNormAct2d) else nn.Identity()
    )
