"""When a map may be written over: in inference, where no backward pass needs it.

On a CPU new memory costs more than arithmetic. A map of the largest level has 47 MB at the paper's sizes (five frames
of 96 x 96 positions, 256 channels): to multiply it takes 2 ms in place, and 20 ms into new memory.
"""

import torch


def may_overwrite() -> bool:
    """Whether neither autograd nor the compiler, which plans memory itself, has to see every map as it was."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling())
