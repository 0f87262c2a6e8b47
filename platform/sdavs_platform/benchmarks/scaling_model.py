"""The cost of communication as arithmetic: bytes of ring collectives, seconds, and memory by ZeRO stage.

The alpha-beta model: a message of b bytes takes alpha + b / beta. Rings (Patarasuk & Yuan 2009; NCCL, gloo) split
a tensor of S bytes into N parts, one per worker, and pass them on. What each worker sends:

    all-gather, reduce-scatter    (N - 1) messages of S / N          S (N - 1) / N
    all-reduce                    one after the other                2 S (N - 1) / N
    broadcast, reduce             (N - 1) messages in a pipeline     S

NCCL all-reduces over trees where they are faster: the same bytes in 2 log2 N messages (Sanders, Speck & Traeff 2009).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

ROUNDS = {
    "all_reduce": 2,
    "all_gather": 1,
    "all_gather_into_tensor": 1,
    "reduce_scatter": 1,
    "reduce_scatter_tensor": 1,
}
"""How often a collective sends a whole tensor, less one part, around the ring."""

TRAINING_FACTOR = 3
"""Cost of a step in forward passes: the backward pass computes two gradients, each as costly as the forward pass."""
BACKWARD_FRACTION = 2 / 3


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """The collectives of one kind in a step, as one worker sees them; see `Collectives`."""

    calls: float
    num_bytes: float
    """Sum over all calls, in whole tensors."""


Traffic = Mapping[str, Exchange]
"""Keyed by function of torch.distributed."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """The slowest link of a ring."""

    latency_s: float
    bytes_per_s: float
    """One direction, one worker."""
    has_trees: bool = False
    """NCCL has tree algorithms, gloo has none."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Nodes of GPUs. docs/scaling.md gives the sources of the figures."""

    name: str
    flops: float
    """Peak of one GPU in bf16, dense."""
    inside: Link
    """The link between the GPUs of a node."""
    node_bytes_per_s: float
    """All network cards of a node, one direction."""
    network_latency_s: float = 15e-6
    gpus_per_node: int = 8

    def ring(self, num_workers: int) -> Link:
        """The slowest link of a ring over so many GPUs; NCCL runs one ring through each network card in parallel."""
        if num_workers <= self.gpus_per_node:
            return self.inside
        fraction = 1 / self.gpus_per_node
        return replace(
            self.inside,
            # On its way around the ring a part leaves each node once.
            latency_s=(1 - fraction) * self.inside.latency_s + fraction * self.network_latency_s,
            bytes_per_s=min(self.inside.bytes_per_s, self.node_bytes_per_s),
        )


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """Assumptions that could not be measured here."""

    reached_flops: float = 0.3
    """Fraction of a GPU's peak that training reaches."""
    reached_bandwidth: float = 0.8
    """Fraction of a link's bandwidth that large messages reach."""
    clips_per_gpu: int = 4
    """Clips per GPU and step (weak scaling): the paper's whole batch on every GPU."""


MACHINES = (
    Machine(
        name="A100, 8 x 200 Gb/s",
        flops=312e12,
        inside=Link(latency_s=5e-6, bytes_per_s=300e9, has_trees=True),
        node_bytes_per_s=8 * 25e9,
    ),
    Machine(
        name="H100, 8 x 400 Gb/s",
        flops=989e12,
        inside=Link(latency_s=5e-6, bytes_per_s=450e9, has_trees=True),
        node_bytes_per_s=8 * 50e9,
    ),
    Machine(
        name="A100, 1 x 100 Gb/s",
        flops=312e12,
        inside=Link(latency_s=5e-6, bytes_per_s=300e9, has_trees=True),
        node_bytes_per_s=12.5e9,
    ),
)


def wire_bytes(traffic: Traffic, num_workers: int) -> float:
    """Bytes that one worker sends in a step."""
    return sum(
        ROUNDS[name] * (num_workers - 1) / num_workers * exchange.num_bytes
        if name in ROUNDS
        else (num_workers > 1) * exchange.num_bytes
        for name, exchange in traffic.items()
    )


def exchange_seconds(traffic: Traffic, num_workers: int, link: Link) -> float:
    """Time of a step's collectives, one after another."""
    messages = sum(_messages(name, num_workers, link) * exchange.calls for name, exchange in traffic.items())
    return messages * link.latency_s + wire_bytes(traffic, num_workers) / link.bytes_per_s


def _messages(name: str, num_workers: int, link: Link) -> int:
    """Sequential messages of one call."""
    ring = ROUNDS.get(name, 1) * (num_workers - 1)
    if link.has_trees and name == "all_reduce":
        return min(ring, 2 * math.ceil(math.log2(num_workers)))
    return ring


def state_bytes(num_parameters: float, *, stage: int, num_workers: int) -> float:
    """Bytes of weights, gradients and optimizer states per worker in bf16 training with AdamW (ZeRO, sections 3 and 5).

    2 bytes for a weight, 2 for its gradient, 12 for the fp32 weight and two moments; without activations.
    """
    weights, gradients, states = (
        size / (num_workers if stage >= spread else 1) for size, spread in ((2, 3), (2, 2), (12, 1))
    )
    return num_parameters * (weights + gradients + states)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A predicted step; nothing in it is measured."""

    machine: str
    stage: int
    num_workers: int
    compute_s: float
    exchange_s: float
    state_gb: float

    @property
    def slowest_s(self) -> float:
        """Without overlap of communication and computation, as stages 0 to 2 are configured."""
        return self.compute_s + self.exchange_s

    @property
    def fastest_s(self) -> float:
        """With the most overlap: gradients during the backward pass, ZeRO-3's weights during the whole step."""
        hidden = self.compute_s * (1 if self.stage == 3 else BACKWARD_FRACTION)
        return self.compute_s + max(0.0, self.exchange_s - hidden)

    @property
    def efficiency(self) -> tuple[float, float]:
        """Fraction of the throughput without communication: slowest, fastest."""
        return self.compute_s / self.slowest_s, self.compute_s / self.fastest_s


def predict(
    traffic: Traffic,
    *,
    machine: Machine,
    stage: int,
    num_workers: int,
    macs_per_clip: float,
    num_parameters: float,
    given: Assumptions,
) -> Prediction:
    """Predict a step of `given.clips_per_gpu` clips per GPU; one multiply-accumulate counts as two operations."""
    flops = 2 * TRAINING_FACTOR * macs_per_clip * given.clips_per_gpu
    ring = machine.ring(num_workers)
    link = replace(ring, bytes_per_s=ring.bytes_per_s * given.reached_bandwidth)
    return Prediction(
        machine=machine.name,
        stage=stage,
        num_workers=num_workers,
        compute_s=flops / (machine.flops * given.reached_flops),
        exchange_s=exchange_seconds(traffic, num_workers, link),
        state_gb=state_bytes(num_parameters, stage=stage, num_workers=num_workers) / 1e9,
    )
