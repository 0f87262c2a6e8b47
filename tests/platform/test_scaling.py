"""The arithmetic of exchanging, against cases worked out by hand and in ZeRO's paper."""

import pytest
from sdavs_platform.benchmarks.scaling_model import (
    Assumptions,
    Exchange,
    Link,
    Machine,
    exchange_seconds,
    predict,
    state_bytes,
    wire_bytes,
)

LINK = Link(latency_s=0.001, bytes_per_s=100)
MACHINE = Machine(
    name="toy",
    flops=1000,
    inside=Link(latency_s=0.001, bytes_per_s=100),
    node_bytes_per_s=50,
    network_latency_s=0.01,
    gpus_per_node=4,
)


@pytest.mark.parametrize(
    ("name", "num_workers", "sent", "seconds"),
    [
        ("all_reduce", 4, 600, 2 * 6 * 0.001 + 6),  # 2 * 3/4 of 400 bytes; 6 messages in each of 2 calls
        ("all_gather_into_tensor", 4, 300, 2 * 3 * 0.001 + 3),
        ("reduce_scatter_tensor", 2, 200, 2 * 1 * 0.001 + 2),
        ("broadcast", 4, 400, 2 * 3 * 0.001 + 4),
        ("all_reduce", 1, 0, 0),
        ("broadcast", 1, 0, 0),
    ],
)
def test_what_a_ring_sends_and_how_long_it_takes(name, num_workers, sent, seconds):
    traffic = {name: Exchange(calls=2, num_bytes=400)}
    assert wire_bytes(traffic, num_workers) == sent
    assert exchange_seconds(traffic, num_workers, LINK) == pytest.approx(seconds)


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_memory_by_stage_is_that_of_figure_1_of_zero(stage, gigabytes):
    assert state_bytes(7.5e9, stage=stage, num_workers=64) / 1e9 == pytest.approx(gigabytes, abs=0.05)


def test_rings_that_leave_a_node_are_as_fast_as_the_network_at_most():
    assert MACHINE.ring(4) == MACHINE.inside
    # Three of four hops stay inside the node.
    assert MACHINE.ring(8) == Link(latency_s=pytest.approx(0.00325), bytes_per_s=50)


def test_trees_reduce_in_a_logarithm_of_messages():
    trees = Link(latency_s=1, bytes_per_s=float("inf"), has_trees=True)
    assert exchange_seconds({"all_reduce": Exchange(calls=3, num_bytes=9)}, 64, trees) == 3 * 12
    assert exchange_seconds({"all_gather": Exchange(calls=3, num_bytes=9)}, 64, trees) == 3 * 63


def test_a_step_takes_computation_and_exchange_less_what_overlaps():
    def predicted(stage, num_bytes):
        return predict(
            {"all_reduce": Exchange(calls=1, num_bytes=num_bytes)},
            machine=MACHINE,
            stage=stage,
            num_workers=8,
            macs_per_clip=50,
            num_parameters=10,
            given=Assumptions(reached_flops=0.5, reached_bandwidth=0.5, clips_per_gpu=5),
        )

    step = predicted(2, 200)
    assert step.compute_s == pytest.approx(3)  # 5 clips, 50 MACs of 2 operations, 3 passes; half of 1000
    assert step.exchange_s == pytest.approx(14 * 0.00325 + 350 / 25)
    assert step.slowest_s == pytest.approx(17.0455)
    assert step.fastest_s == pytest.approx(15.0455)  # two thirds of the computation are the backward pass
    assert step.efficiency == pytest.approx((3 / 17.0455, 3 / 15.0455))
    assert predicted(3, 200).fastest_s == pytest.approx(14.0455)
    assert predicted(0, 10).fastest_s == pytest.approx(3)
