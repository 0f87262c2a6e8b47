"""Compile a model part by part: the blocks of its encoders, and each of its own parts, with one graph for equal blocks.

As a whole, a backbone of 50 blocks is one graph of 50 times the same code, which takes minutes to compile. PyTorch's
tutorials call this regional compilation.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sdavs_model.encoders.encoder import Encoder
from sdavs_model.lean_timm import timm

MAX_GRAPHS = 256
"""Most graphs of one class: an EfficientNet's blocks all differ, and training and evaluation have graphs of their
own."""


def compile_in_parts(model: nn.Module, *, backend: str | Callable[..., Any] = "inductor") -> None:
    """Let `torch.compile` compile the model's parts at their first call, in place.

    A part has one graph for any number of clips and frames but one; all other sizes are constants of a model. What lies
    between the parts is not compiled, nor what picks the present seconds of a padded batch. Copies of the model are not
    compiled.

    Args:
        model: a `SegmentationModel`.
        backend: as for `torch.compile`.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_GRAPHS)
    compiled: dict[type[nn.Module], Callable[..., Any]] = {}
    for part, num_sizes in list(_parts(model)):
        _let_blocks_share(part)
        kind = type(part)
        if kind not in compiled:
            # By class, so that equal blocks share a graph. `dynamic=False`: the heights and widths of the stages would
            # become variables as well, and the compiler would spend its time on expressions of them.
            compiled[kind] = torch.compile(kind.forward, dynamic=False, backend=backend)
        # A private attribute, which `nn.Module.compile` sets (torch 2.11). That method compiles a function that all
        # modules share. `tests/model/test_compile.py` counts no graphs if the attribute changes its meaning.
        part._compiled_call_impl = _with_marks(compiled[kind], part, num_sizes=num_sizes)


def _parts(model: nn.Module) -> Iterator[tuple[nn.Module, int]]:
    """The parts, and how many of their inputs' first dimensions vary: frames [B*T, ...], or clips and frames."""
    for child in model.children():
        if isinstance(child, Encoder):
            yield from ((block, 1) for block in _repeated_blocks(child) or [child])
        elif isinstance(child, nn.ModuleList):
            yield from ((each, 2) for each in child)
        else:
            yield child, 2


def _repeated_blocks(encoder: nn.Module) -> list[nn.Module]:
    """The blocks of an encoder, such as a ResNet's: the innermost elements of its lists of modules, of classes that
    occur more than once."""

    def elements(root: nn.Module) -> list[nn.Module]:
        lists = (m for m in root.modules() if isinstance(m, nn.Sequential | nn.ModuleList))
        found = [element for each in lists for element in each]
        return [e for e in found if not isinstance(e, nn.Sequential) and any(True for _ in e.children())]

    innermost = [element for element in elements(encoder) if not elements(element)]
    counts = Counter(type(element) for element in innermost)
    # A graph has no place for hooks, by which some of timm's backbones collect their feature maps.
    return [e for e in innermost if counts[type(e)] > 1 and not any(_has_hooks(m) for m in e.modules())]


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


class _DropPath(timm.layers.DropPath):
    """timm's, which compares its rate before it asks whether the model is being trained. Every block has another rate,
    so that none would share a graph."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else x


def _let_blocks_share(part: nn.Module) -> None:
    for module in list(part.modules()):
        for name, child in module.named_children():
            if type(child) is timm.layers.DropPath:
                replacement = _DropPath(child.drop_prob, child.scale_by_keep).train(child.training)
                setattr(module, name, replacement)


def _with_marks(compiled: Callable[..., Any], part: nn.Module, *, num_sizes: int) -> Callable[..., Any]:
    """A call of the compiled part that first marks the sizes that vary: a mark belongs to a tensor."""
    from torch._dynamo import maybe_mark_dynamic  # takes seconds to import, for processes that compile

    def call(*inputs: Any, **named: Any) -> Any:
        for tensor in _tensors((inputs, tuple(named.values()))):
            for dimension in range(min(num_sizes, tensor.ndim)):
                maybe_mark_dynamic(tensor, dimension)
        return compiled(part, *inputs, **named)

    return call


def _tensors(inputs: Any) -> Iterator[Tensor]:
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, list | tuple):
        for each in inputs:
            yield from _tensors(each)
