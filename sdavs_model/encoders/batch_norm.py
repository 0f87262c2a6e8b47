"""Batch normalisation over the whole batch, also when workers share it."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional


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
