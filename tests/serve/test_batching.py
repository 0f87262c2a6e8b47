"""Batches fill while the model is busy, and every caller gets its own result."""

import asyncio

import pytest
from sdavs_serve.inference.batching import Batcher


class Model:
    """Doubles numbers. Runs for as long as `free` is not set."""

    def __init__(self, *, max_size: int = 6, wait_s: float = 0.0, num_at_once: int = 1) -> None:
        self.batches: list[list[int]] = []
        self.free = asyncio.Event()
        self.batcher = Batcher(
            self.run, size_of=lambda item: item, max_size=max_size, wait_s=wait_s, num_at_once=num_at_once
        )

    async def run(self, batch: list[int]) -> list[int]:
        self.batches.append(batch)
        await self.free.wait()
        if 5 in batch:
            raise ValueError("five")
        return [2 * item for item in batch]

    def ask(self, *items: int) -> list[asyncio.Task]:
        return [asyncio.create_task(self.batcher(item)) for item in items]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)


def test_what_arrives_while_the_model_is_busy_goes_together():
    async def scenario() -> None:
        model = Model(wait_s=0.001)
        first = model.ask(1)
        await settle()
        later = []
        for _ in range(4):  # longer apart than the wait
            later += model.ask(1)
            await settle()
        model.free.set()
        assert await asyncio.gather(*first, *later) == [2] * 5
        assert model.batches == [[1], [1, 1, 1, 1]]

    asyncio.run(scenario())


def test_a_batch_has_no_more_than_its_size_and_keeps_the_order():
    async def scenario() -> None:
        model = Model()
        model.free.set()
        tasks = model.ask(3, 2, 4, 1, 9, 1)
        assert await asyncio.gather(*tasks) == [6, 4, 8, 2, 18, 2]
        assert model.batches == [[3, 2], [4, 1], [9], [1]]

    asyncio.run(scenario())


def test_as_many_batches_run_at_once_as_may_and_the_oldest_tells_how_long_the_model_is_busy():
    async def scenario() -> None:
        model = Model(num_at_once=2)
        tasks = []
        for item in (1, 2, 3, 2):
            tasks += model.ask(item)
            await settle()
        assert model.batches == [[1], [2]]
        busy_s = model.batcher.busy_s
        await asyncio.sleep(0.01)
        assert model.batcher.busy_s > busy_s > 0
        model.free.set()
        assert await asyncio.gather(*tasks) == [2, 4, 6, 4]
        assert model.batches == [[1], [2], [3, 2]]
        await settle()
        assert model.batcher.busy_s == 0

    asyncio.run(scenario())


def test_a_lone_item_waits_for_company_no_longer_than_it_may():
    async def scenario() -> None:
        model = Model(wait_s=30)
        model.free.set()
        (lone,) = model.ask(1)
        await settle()
        assert not model.batches
        tasks = model.ask(2, 3, 1)  # full, and one more
        assert await asyncio.gather(lone, *tasks[:2]) == [2, 4, 6]
        assert model.batches == [[1, 2, 3]]
        quick = Model(wait_s=0.05)
        quick.free.set()
        assert await asyncio.wait_for(quick.batcher(1), 5) == 2

    asyncio.run(scenario())


def test_a_failure_reaches_its_own_batch_only_and_cancelled_callers_are_left_out():
    async def scenario() -> None:
        model = Model()
        busy = model.ask(1)
        await settle()
        gone, wrong = model.ask(2, 5)
        await settle()
        gone.cancel()
        model.free.set()
        assert await busy[0] == 2
        with pytest.raises(ValueError, match="five"):
            await wrong
        assert await model.ask(3)[0] == 6
        assert model.batches == [[1], [5], [3]]

    asyncio.run(scenario())
