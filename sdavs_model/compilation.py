"""What `torch.compile` may assume about the sizes of a batch."""

from torch import Tensor


def mark_batch_sizes(*inputs: Tensor, num_dimensions: int = 2) -> None:
    """Let a compiled model use one graph for any number of clips and frames.

    All other sizes are constants of a model. `torch.compile(dynamic=True)` would make them variables as well, and then
    spends most of its time on expressions of heights and widths. Call this on what the compiled model gets, before
    each call: a mark belongs to a tensor, not to the model.

    Args:
        inputs: the model's inputs, whose first dimensions are clips and frames: [B, T, ...].
        num_dimensions: how many dimensions vary; 1 for a backbone, whose frames are [B*T, 3, H, W].
    """
    from torch._dynamo import maybe_mark_dynamic  # takes seconds to import, for processes that compile

    for tensor in inputs:
        for dimension in range(num_dimensions):
            maybe_mark_dynamic(tensor, dimension)
