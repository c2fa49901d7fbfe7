"""Bodies that share a budget which is too small for all of them."""

import asyncio
import gc
import random
import weakref
from contextlib import suppress

import pytest

from app.ingest.budget import Budget
from tests.unit.conftest import quiet
from tests.unit.reading import Body, intake

KIB = 1024


async def test_a_shortage_is_told_once_and_the_body_waits_for_it_to_end() -> None:
    budget = Budget(1000)
    await budget.take(1000)
    body = Body([bytes(400), bytes(600)])
    async with intake(body, budget) as reading:
        assert await asyncio.wait_for(reading.step(), 5) == []
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reading.step(), 0.05)
        assert body.read_bytes == 400
        budget.give(1000)
        await quiet()
        assert await reading.step() == [bytes(1000)]
        assert await reading.step() is None
    assert budget.free_bytes == 0


async def test_each_shortage_is_told_anew() -> None:
    budget = Budget(300)
    async with intake(Body([bytes(200)] * 3), budget) as reading:
        async with asyncio.timeout(5):
            for _ in range(2):
                assert await reading.step() == [bytes(200)]
                assert await reading.step() == []
                budget.give(200)
                await quiet()
            assert await reading.step() == [bytes(200)]
            assert await reading.step() is None


async def test_the_shortage_of_another_is_told_to_all_who_may_hold_something() -> None:
    budget = Budget(300)
    async with intake(Body([bytes(200)], hangs=True), budget) as idler:
        assert await idler.step() == [bytes(200)]
        async with intake(Body([bytes(200)]), budget) as needy, asyncio.timeout(5):
            assert await idler.step() == []
            budget.give(200)
            while not (step := await needy.step()):
                assert step == []
            assert step == [bytes(200)]
        budget.give(200)
    assert budget.free_bytes == budget.total_bytes


async def test_a_shortage_that_is_over_is_told_no_more() -> None:
    budget = Budget(300)
    async with intake(Body([bytes(200), bytes(200)], hangs=True), budget) as reading:
        assert await reading.step() == [bytes(200)]
        assert await reading.step() == []
        budget.give(200)
        assert await reading.step() == [bytes(200)]
        assert reading.idle
        budget.give(200)


async def test_a_body_that_has_ended_is_forgotten() -> None:
    budget = Budget(300)
    reading = intake(Body([]), budget)
    async with reading:
        assert await reading.step() is None
    seen = weakref.ref(reading)
    del reading
    gc.collect()
    assert seen() is None
    assert budget.free_bytes == 300


async def test_many_bodies_that_let_go_at_once_all_arrive_whole_on_a_small_budget() -> None:
    budget = Budget(4 * KIB)

    async def receive(seed: int) -> int:
        chance = random.Random(seed)
        chunks = [bytes(chance.randrange(2 * KIB)) for _ in range(30)]
        received = 0
        async with intake(Body(chunks), budget) as reading:
            while (step := await reading.step()) is not None:
                received += sum(map(len, step))
                await asyncio.sleep(0)
                budget.give(sum(map(len, step)))
                assert 0 <= budget.free_bytes <= budget.total_bytes
        return received - sum(map(len, chunks))

    async with asyncio.timeout(20):
        assert await asyncio.gather(*map(receive, range(60))) == [0] * 60
    assert budget.free_bytes == budget.total_bytes


async def test_many_receivers_that_hold_what_they_took_until_memory_is_short_all_finish() -> None:
    budget = Budget(8 * KIB)

    async def receive() -> int:
        held = received = 0
        async with intake(Body([bytes(KIB)] * 20), budget) as reading:
            while (step := await reading.step()) is not None:
                if not step:  # spill
                    budget.give(held)
                    held = 0
                held += sum(map(len, step))
                received += sum(map(len, step))
                await asyncio.sleep(0.001)  # the thread that parses
        budget.give(held)
        return received

    async with asyncio.timeout(10):
        assert await asyncio.gather(*(receive() for _ in range(12))) == [20 * KIB] * 12
    assert budget.free_bytes == budget.total_bytes


async def test_bodies_cut_off_at_random_leave_the_budget_whole() -> None:
    budget = Budget(4 * KIB)
    chance = random.Random(1)

    async def receive() -> None:
        async with intake(Body(bytes(700) for _ in range(1000)), budget) as reading:
            while (step := await reading.step()) is not None:
                try:
                    await asyncio.sleep(0)
                finally:
                    budget.give(sum(map(len, step)))

    tasks = [asyncio.create_task(receive()) for _ in range(40)]
    for task in chance.sample(tasks, len(tasks)):
        for _ in range(chance.randrange(10)):
            await asyncio.sleep(0)
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert budget.free_bytes == budget.total_bytes
