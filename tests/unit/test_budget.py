import asyncio
from collections import deque
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ingest.budget import Budget
from tests.unit.conftest import quiet

TOTAL = 100


def taking(budget: Budget, size: int) -> asyncio.Task[None]:
    return asyncio.create_task(budget.take(size))


async def test_what_is_free_is_taken_at_once() -> None:
    budget = Budget(TOTAL)
    assert budget.try_take(60)
    assert not budget.try_take(41)
    assert budget.try_take(40)
    assert budget.free_bytes == 0
    budget.give(100)
    assert budget.free_bytes == TOTAL
    await budget.take(TOTAL)
    assert budget.free_bytes == 0


async def test_nothing_can_be_taken_from_an_empty_budget() -> None:
    budget = Budget(TOTAL)
    await budget.take(TOTAL)
    assert budget.try_take(0)
    assert not budget.try_take(1)


async def test_whoever_finds_too_few_waits_until_enough_came_back() -> None:
    budget = Budget(TOTAL)
    await budget.take(TOTAL)
    waiting = taking(budget, 50)
    await quiet()
    budget.give(49)
    await quiet()
    assert not waiting.done()
    budget.give(1)
    await waiting
    assert budget.free_bytes == 0


async def test_turns_come_in_order_and_nobody_small_overtakes() -> None:
    budget = Budget(TOTAL)
    await budget.take(TOTAL)
    order: list[int] = []

    async def take(number: int, size: int) -> None:
        await budget.take(size)
        order.append(number)

    tasks = [asyncio.create_task(take(number, size)) for number, size in enumerate([90, 1, 50, 1])]
    await quiet()
    budget.give(80)
    await quiet()
    assert order == []
    assert not budget.try_take(1)
    budget.give(20)
    await quiet()
    assert order == [0, 1]
    budget.give(91)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3]
    assert budget.free_bytes == TOTAL - 51


async def test_whoever_stops_waiting_lets_the_next_one_through() -> None:
    budget = Budget(TOTAL)
    await budget.take(90)
    big, small = taking(budget, 50), taking(budget, 10)
    await quiet()
    big.cancel()
    await quiet()
    assert big.cancelled()
    assert small.done()
    assert budget.free_bytes == 0


async def test_bytes_given_to_one_who_was_cancelled_meanwhile_are_not_lost() -> None:
    budget = Budget(TOTAL)
    await budget.take(TOTAL)
    gone, next_one = taking(budget, 60), taking(budget, 80)
    await quiet()
    budget.give(TOTAL)
    gone.cancel()
    await next_one
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert budget.free_bytes == 20


async def test_one_who_stops_waiting_just_as_bytes_come_back_is_cancelled_and_no_worse() -> None:
    budget = Budget(100)
    await budget.take(100)
    waiting = asyncio.create_task(budget.take(50))
    await quiet()
    waiting.cancel()
    budget.give(100)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert budget.free_bytes == 100


async def test_those_who_watch_are_told_whenever_somebody_finds_too_few() -> None:
    budget = Budget(TOTAL)
    told: list[str] = []
    first, second = partial(told.append, "first"), partial(told.append, "second")
    for watcher in (first, second):
        budget.watch(watcher)
    await budget.take(TOTAL)
    budget.try_take(1)
    assert told == []
    waiting = taking(budget, 1)
    await quiet()
    assert sorted(told) == ["first", "second"]
    budget.unwatch(first)
    more = taking(budget, 1)
    await quiet()
    assert sorted(told) == ["first", "second", "second"]
    budget.give(2)
    await asyncio.gather(waiting, more)


@given(st.lists(st.tuples(st.sampled_from(["take", "try", "give", "cancel"]), st.integers(0, TOTAL)), max_size=60))
@settings(max_examples=150)
def test_nothing_is_lost_made_or_given_out_of_turn(steps: list[tuple[str, int]]) -> None:
    asyncio.run(follow(steps))


async def follow(steps: list[tuple[str, int]]) -> None:
    """Do the steps, and compare the budget with a plain account of who holds what and who waits for what."""
    budget = Budget(TOTAL)
    held: list[int] = []
    waiting: deque[tuple[int, asyncio.Task[None]]] = deque()
    for step, number in steps:
        if step == "take":
            waiting.append((number, taking(budget, number)))
        elif step == "try":
            fits = not waiting and sum(held) + number <= TOTAL
            assert budget.try_take(number) == fits
            held += [number] if fits else []
        elif step == "give" and held:
            budget.give(held.pop(number % len(held)))
        elif step == "cancel" and waiting:
            size, task = waiting[number % len(waiting)]
            waiting.remove((size, task))
            task.cancel()
        while waiting and sum(held) + waiting[0][0] <= TOTAL:
            held.append(waiting.popleft()[0])
        await quiet()
        assert budget.free_bytes == TOTAL - sum(held)
        assert budget.free_bytes >= 0
        assert not any(task.done() for _, task in waiting)
    for _, task in waiting:
        task.cancel()
    await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)
    assert budget.free_bytes == TOTAL - sum(held)
