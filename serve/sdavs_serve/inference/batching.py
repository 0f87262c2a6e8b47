"""Batches that fill while the model is busy.

`serve.batch` closes a batch `batch_wait_ms` after its first item, also while earlier batches wait for the model: under
load it then runs many small batches one after the other. Here a batch is closed when the model is free to take it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    since: float
    result: "asyncio.Future[Result]"


class Batcher(Generic[Item, Result]):
    """Collects items that arrive one by one, and runs them in batches, in order of arrival."""

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[list[Result]]],
        *,
        size_of: Callable[[Item], int],
        max_size: int,
        wait_s: float,
        num_at_once: int = 1,
    ) -> None:
        """
        Args:
            run: processes a batch, item by item the same order.
            size_of: size of an item.
            max_size: of all items of a batch together; an item beyond it is a batch of its own.
            wait_s: how long an item waits for others if fewer than `num_at_once` batches run.
            num_at_once: how many batches may run at the same time.
        """
        self._run = run
        self._size_of = size_of
        self._max_size = max_size
        self._wait_s = wait_s
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._changed = asyncio.Event()
        self._workers: list[asyncio.Task | None] = [None] * num_at_once
        self._running_since: dict[int, float] = {}

    @property
    def busy_s(self) -> float:
        """How long the oldest running batch has been running, in seconds; 0 if none is."""
        # Copied at once: the thread that follows the rollout asks, too.
        running = [*self._running_since.values()]
        return time.monotonic() - min(running) if running else 0.0

    async def __call__(self, item: Item) -> Result:
        """The result for one item. Raises what the run of its batch raises."""
        loop = asyncio.get_running_loop()
        for number, worker in enumerate(self._workers):
            if worker is None or worker.done():
                self._workers[number] = loop.create_task(self._work(number))
        future: asyncio.Future[Result] = loop.create_future()
        self._queue.append(_Waiting(item=item, since=time.monotonic(), result=future))
        self._changed.set()
        return await future

    async def _work(self, number: int) -> None:
        while True:
            batch = await self._next_batch()
            self._running_since[number] = time.monotonic()
            try:
                results = await self._run([one.item for one in batch])
            except Exception as error:
                for one in batch:
                    if not one.result.done():
                        one.result.set_exception(error)
                continue
            finally:
                del self._running_since[number]
            for one, result in zip(batch, results, strict=True):
                if not one.result.done():
                    one.result.set_result(result)

    async def _next_batch(self) -> list[_Waiting[Item, Result]]:
        while True:
            # Whoever has stopped waiting needs no result.
            self._queue = deque(one for one in self._queue if not one.result.done())
            fitting = self._fitting()
            if fitting:
                left = self._queue[0].since + self._wait_s - time.monotonic()
                if len(fitting) < len(self._queue) or left <= 0:
                    return [self._queue.popleft() for _ in fitting]
            self._changed.clear()
            try:
                async with asyncio.timeout(left if fitting else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _fitting(self) -> list[_Waiting[Item, Result]]:
        fitting: list[_Waiting[Item, Result]] = []
        size = 0
        for one in self._queue:
            size += self._size_of(one.item)
            if fitting and size > self._max_size:
                break
            fitting.append(one)
        return fitting
