"""Batch normalisation over the whole batch, also when workers share it."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SharedBatchNorm(nn.BatchNorm1d):
    """In one process `nn.BatchNorm1d`; in a process group the same, with the statistics of all its workers.

    Any split of a batch over workers then computes what one process would, gradients and running statistics
    included. `nn.SyncBatchNorm` does this on GPUs alone; a sum that can be differentiated does it on both.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C] -> [N, C]; when training, all workers have to call this together."""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        whole = x.float()
        # Workers may have different numbers of rows, so the count is summed, too.
        sums = all_reduce(torch.cat([whole.sum(0), whole.new_full((1,), len(x))]))
        num_rows = sums[-1]
        mean = sums[:-1] / num_rows
        var = all_reduce((whole - mean).square().sum(0)) / num_rows
        with torch.no_grad():
            unbiased = var * num_rows / (num_rows - 1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked += 1
        normed = (whole - mean) * torch.rsqrt(var + self.eps)
        return (normed * self.weight + self.bias).to(x.dtype)
