import asyncio
import threading
from contextlib import suppress

import pytest

from app.domain.errors import StorageFullError
from app.ingest.budget import Budget
from app.ingest.pump import Pump

TOTAL = 100


class Work:
    """What is done with steps: noted, once it is let go on."""

    def __init__(self, *, fails_at: bytes = b"") -> None:
        self.done: list[bytes] = []
        self.go_on = threading.Semaphore(0)
        self._fails_at = fails_at

    def __call__(self, step: list[bytes]) -> None:
        assert self.go_on.acquire(timeout=30)
        data = b"".join(step)
        if data == self._fails_at:
            raise StorageFullError
        self.done.append(data)


async def give(pump: Pump, budget: Budget, data: bytes) -> None:
    await budget.take(len(data))
    await pump.give([data[:1], data[1:]])


async def test_steps_are_worked_on_in_their_order_and_give_their_bytes_back() -> None:
    work, budget = Work(), Budget(TOTAL)
    pump = Pump(work, budget)
    work.go_on.release(50)
    steps = [b"%03d" % number for number in range(50)]
    for step in steps:
        await give(pump, budget, step)
    await pump.drain()
    assert work.done == steps
    assert budget.free_bytes == TOTAL


async def test_one_step_waits_behind_the_one_that_is_worked_on_and_a_third_with_its_giver() -> None:
    work, budget = Work(), Budget(TOTAL)
    pump = Pump(work, budget)
    await give(pump, budget, b"one")
    await give(pump, budget, b"two")
    third = asyncio.create_task(give(pump, budget, b"three"))
    await asyncio.sleep(0.01)
    assert not third.done()
    assert budget.free_bytes == TOTAL - len(b"onetwothree")
    work.go_on.release()
    await third
    work.go_on.release(2)
    await pump.drain()
    assert work.done == [b"one", b"two", b"three"]


async def test_a_giver_that_is_cancelled_keeps_its_step() -> None:
    work, budget = Work(), Budget(TOTAL)
    pump = Pump(work, budget)
    await give(pump, budget, b"one")
    await give(pump, budget, b"two")
    third = asyncio.create_task(give(pump, budget, b"three"))
    await asyncio.sleep(0.01)
    third.cancel()
    with suppress(asyncio.CancelledError):
        await third
    work.go_on.release(3)
    await pump.drain()
    assert work.done == [b"one", b"two"]
    assert budget.free_bytes == TOTAL - len(b"three")


async def test_behind_an_error_nothing_is_worked_on_and_everybody_is_told() -> None:
    work, budget = Work(fails_at=b"one"), Budget(TOTAL)
    pump = Pump(work, budget)
    work.go_on.release(3)
    await give(pump, budget, b"one")
    with pytest.raises(StorageFullError):
        await asyncio.gather(give(pump, budget, b"two"), pump.drain())
    with pytest.raises(StorageFullError):
        await pump.give([])
    await pump.end()
    with pytest.raises(StorageFullError):
        await pump.drain()
    assert work.done == []


async def test_nothing_under_way_is_nothing_to_wait_for() -> None:
    pump = Pump(Work(), Budget(TOTAL))
    await pump.drain()
    await pump.end()
