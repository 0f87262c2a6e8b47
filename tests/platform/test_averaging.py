"""The average of the weights, without a cluster."""

import pytest
import torch
from sdavs_platform.training.averaging import STATE, averaged, keep_average
from torch.utils._python_dispatch import TorchDispatchMode


class Engine:
    """As DeepSpeed's of ZeRO-0 in fp32."""

    def __init__(self, *, decay: float) -> None:
        self.module = torch.nn.Linear(1, 1, bias=False)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.1, fused=True)
        keep_average(self.optimizer, decay=decay)

    def step(self) -> float:
        self.module(torch.ones(1)).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(self.module.weight.detach())


def test_the_average_forgets_the_first_weights_quickly_and_then_at_the_configured_rate():
    engine = Engine(decay=0.3)
    average = None
    for step in range(1, 6):
        weight = engine.step()
        decay = min(0.3, (1 + step) / (10 + step))
        average = weight if average is None else decay * average + (1 - decay) * weight
        assert float(engine.optimizer.state[engine.module.weight][STATE]) == pytest.approx(average)


def test_inside_the_context_the_model_has_the_average_and_afterwards_its_own_weights():
    engine = Engine(decay=0.9)
    with averaged(engine) as weights:
        assert not weights  # nothing has been averaged yet
    for _ in range(3):
        own = engine.step()
    with averaged(engine) as weights:
        assert float(engine.module.weight.detach()) == float(weights["weight"]) != own
    assert float(engine.module.weight.detach()) == own


def test_a_step_without_gradients_leaves_the_average_as_it_is():
    engine = Engine(decay=0.9)
    engine.step()
    before = engine.optimizer.state[engine.module.weight][STATE].clone()
    engine.module.weight.data.fill_(100)
    engine.optimizer.step()
    assert torch.equal(engine.optimizer.state[engine.module.weight][STATE], before)


class Reads(TorchDispatchMode):
    """Counts how often the program asks for a value, for which it would have to wait on a GPU."""

    num_reads = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.num_reads += operator is torch.ops.aten._local_scalar_dense.default
        return operator(*args, **(kwargs or {}))


def test_a_step_of_the_optimizer_and_its_average_reads_no_value_from_the_device():
    engine = Engine(decay=0.9)
    engine.module(torch.ones(1)).sum().backward()
    with Reads() as reads:
        engine.optimizer.step()
        engine.optimizer.step()
    assert reads.num_reads == 0
    with Reads() as reads:
        float(engine.module.weight.detach())
    assert reads.num_reads == 1
