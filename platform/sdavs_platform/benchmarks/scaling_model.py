"""What exchanging costs, as arithmetic: bytes by rings, seconds by latency and bandwidth, memory by ZeRO stage.

The alpha-beta model: a message of b bytes takes alpha + b / beta. Rings (Patarasuk & Yuan 2009; NCCL, gloo) cut a
tensor of S bytes into N parts, one for each worker, and pass them on:

    all-gather, reduce-scatter    (N - 1) messages of S / N          sends S (N - 1) / N a worker
    all-reduce                    the one, then the other            sends 2 S (N - 1) / N
    broadcast, reduce             (N - 1) messages in a pipeline     sends S

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
"""Of a forward pass: a backward pass computes gradients of activations and of weights, each as much again."""
BACKWARD_SHARE = 2 / 3


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What the collectives of one kind do in a step, one worker's view; see `Collectives`."""

    calls: float
    num_bytes: float
    """Of all calls together, whole tensors."""


Traffic = Mapping[str, Exchange]
"""By function of torch.distributed."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """The slowest link of a ring."""

    latency_s: float
    bytes_per_s: float
    """In one direction, for one worker."""
    has_trees: bool = False
    """Of NCCL; gloo has none."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Nodes of GPUs. Where the figures come from: docs/scaling.md."""

    name: str
    flops: float
    """Of one GPU in bf16, dense."""
    inside: Link
    """Between the GPUs of a node."""
    node_bytes_per_s: float
    """Of all network cards of a node, in one direction."""
    network_latency_s: float = 15e-6
    gpus_per_node: int = 8

    def ring(self, num_workers: int) -> Link:
        """The slowest link of rings over so many GPUs: NCCL lays one through each network card, side by side."""
        if num_workers <= self.gpus_per_node:
            return self.inside
        share = 1 / self.gpus_per_node
        return replace(
            self.inside,
            # On its way round a part leaves each node once.
            latency_s=(1 - share) * self.inside.latency_s + share * self.network_latency_s,
            bytes_per_s=min(self.inside.bytes_per_s, self.node_bytes_per_s),
        )


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What is taken as given, and could not be measured here."""

    reached_flops: float = 0.3
    """Share of a GPU's arithmetic that training reaches."""
    reached_bandwidth: float = 0.8
    """Share of a link's bandwidth that large messages reach."""
    clips_per_gpu: int = 4
    """In every step: weak scaling. The paper's whole batch on every GPU."""


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
    """What one worker sends in a step."""
    return sum(
        ROUNDS[name] * (num_workers - 1) / num_workers * exchange.num_bytes
        if name in ROUNDS
        else (num_workers > 1) * exchange.num_bytes
        for name, exchange in traffic.items()
    )


def exchange_seconds(traffic: Traffic, num_workers: int, link: Link) -> float:
    """How long a step's collectives take one after another."""
    messages = sum(_messages(name, num_workers, link) * exchange.calls for name, exchange in traffic.items())
    return messages * link.latency_s + wire_bytes(traffic, num_workers) / link.bytes_per_s


def _messages(name: str, num_workers: int, link: Link) -> int:
    """Of one call, one after another."""
    ring = ROUNDS.get(name, 1) * (num_workers - 1)
    if link.has_trees and name == "all_reduce":
        return min(ring, 2 * math.ceil(math.log2(num_workers)))
    return ring


def state_bytes(num_parameters: float, *, stage: int, num_workers: int) -> float:
    """Weights, gradients and optimizer states of one worker in bf16 training with AdamW (ZeRO, section 3 and 5).

    2 bytes for a weight, 2 for its gradient, 12 for fp32 weight and two moments; activations come on top.
    """
    weights, gradients, states = (
        size / (num_workers if stage >= spread else 1) for size, spread in ((2, 3), (2, 2), (12, 1))
    )
    return num_parameters * (weights + gradients + states)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Of a step; nothing of it is measured."""

    machine: str
    stage: int
    num_workers: int
    compute_s: float
    exchange_s: float
    state_gb: float

    @property
    def slowest_s(self) -> float:
        """If nothing is exchanged beside computation: so are stages 0 to 2 configured."""
        return self.compute_s + self.exchange_s

    @property
    def fastest_s(self) -> float:
        """If as much as can be is: gradients beside the backward pass, ZeRO-3's weights beside the whole step."""
        hidden = self.compute_s * (1 if self.stage == 3 else BACKWARD_SHARE)
        return self.compute_s + max(0.0, self.exchange_s - hidden)

    @property
    def efficiency(self) -> tuple[float, float]:
        """Share of the throughput of as many GPUs that exchange nothing: slowest, fastest."""
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
    """A step of `given.clips_per_gpu` clips a GPU; one multiply-accumulate is two operations."""
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
