import asyncio
from collections.abc import AsyncIterator

import pytest

from app.domain.errors import RequestTooLargeError
from app.domain.limits import STEP_BYTES
from app.ingest.budget import Budget
from app.ingest.intake import Intake
from tests.unit.conftest import quiet
from tests.unit.reading import Body, intake

KIB = 1024
CHUNK = 64 * KIB
PLENTY = 8 * STEP_BYTES


async def steps(reading: Intake, budget: Budget) -> list[bytes]:
    """All chunks to the end, each step given back as soon as it is taken."""
    chunks: list[bytes] = []
    while (step := await reading.step()) is not None:
        chunks += step
        budget.give(sum(map(len, step)))
    return chunks


async def test_a_body_arrives_whole_and_in_order() -> None:
    budget = Budget(PLENTY)
    chunks = [bytes([number]) * (number * 1000) for number in range(200)]
    async with intake(Body(chunks), budget) as reading:
        assert await steps(reading, budget) == chunks
    assert budget.free_bytes == PLENTY


async def test_the_end_is_the_end_however_often_it_is_asked_for() -> None:
    async with intake(Body([]), Budget(PLENTY)) as reading:
        assert [await reading.step(), await reading.step()] == [None, None]


async def test_a_lone_chunk_is_handed_out_at_once() -> None:
    async with intake(Body([b"lone"], hangs=True), Budget(PLENTY)) as reading:
        assert await asyncio.wait_for(reading.step(), 5) == [b"lone"]


async def test_chunks_gather_while_the_last_step_is_being_worked_on() -> None:
    async with intake(Body([b"a", b"b", b"c"], hangs=True), Budget(PLENTY)) as reading:
        await quiet()
        assert await reading.step() == [b"abc"]


async def test_it_is_idle_exactly_while_a_step_would_have_to_wait() -> None:
    async with intake(Body([b"a"], hangs=True), Budget(PLENTY)) as reading:
        assert reading.idle
        await quiet()
        assert not reading.idle
        assert await reading.step() == [b"a"]
        assert reading.idle


async def test_a_body_is_read_no_further_than_one_step_ahead() -> None:
    body = Body(bytes(CHUNK) for _ in range(10_000))
    budget = Budget(PLENTY)
    async with intake(body, budget) as reading:
        taken = 0
        for _ in range(5):
            await quiet()
            assert body.read_bytes <= taken + STEP_BYTES + CHUNK
            step = await reading.step()
            assert step
            taken += sum(map(len, step))
            assert taken <= body.read_bytes
            budget.give(sum(map(len, step)))
        assert taken >= 4 * STEP_BYTES


async def test_bytes_are_taken_from_the_budget_before_they_are_handed_out_and_stay_the_takers() -> None:
    budget = Budget(PLENTY)
    async with intake(Body([bytes(1000), bytes(500)], hangs=True), budget) as reading:
        await quiet()
        assert budget.free_bytes == PLENTY - 1500
        assert await reading.step() == [bytes(1500)]
        assert budget.free_bytes == PLENTY - 1500
    assert budget.free_bytes == PLENTY - 1500


async def test_what_was_read_before_a_body_broke_is_handed_out_first() -> None:
    budget = Budget(PLENTY)
    broken = ConnectionResetError("gone")
    async with intake(Body([b"first", b"second"], error=broken), budget) as reading:
        await quiet()
        assert await reading.step() == [b"firstsecond"]
        for _ in range(2):
            with pytest.raises(ConnectionResetError, match="gone"):
                await reading.step()


async def test_a_body_over_the_limit_is_refused_behind_what_was_within_it() -> None:
    budget = Budget(PLENTY)
    body = Body(bytes(100) for _ in range(1000))
    async with intake(body, budget, max_bytes=1050) as reading:
        await quiet()
        step = await reading.step()
        assert step is not None
        assert sum(map(len, step)) == 1000
        with pytest.raises(RequestTooLargeError, match="1050") as refused:
            await reading.step()
    assert refused.value.facts == {"max_request_bytes": 1050}
    assert body.read_bytes == 1100


async def test_a_body_of_just_the_limit_is_taken() -> None:
    budget = Budget(PLENTY)
    async with intake(Body([bytes(500), bytes(550)]), budget, max_bytes=1050) as reading:
        assert sum(map(len, await steps(reading, budget))) == 1050


@pytest.mark.parametrize("moment", ["before a step", "after a step", "at the end", "while it waits for memory"])
async def test_leaving_gives_back_all_that_was_not_handed_out(moment: str) -> None:
    budget = Budget(1000)
    chunks = [bytes(300)] * (9 if moment == "while it waits for memory" else 2)
    async with intake(Body(chunks), budget) as reading:
        await quiet()
        if moment in {"after a step", "at the end"}:
            step = await reading.step()
            assert step
            budget.give(sum(map(len, step)))
        if moment == "at the end":
            assert await reading.step() is None
    assert budget.free_bytes == 1000


async def test_a_body_that_breaks_leaves_nothing_taken() -> None:
    budget = Budget(1000)
    async with intake(Body([bytes(300)], error=ConnectionResetError()), budget) as reading:
        assert await reading.step() == [bytes(300)]
        budget.give(300)
        with pytest.raises(ConnectionResetError):
            await reading.step()
    assert budget.free_bytes == 1000


async def fail_after_reading(budget: Budget) -> None:
    async with intake(Body([bytes(300)], hangs=True), budget):
        await quiet()
        raise ValueError("of the caller")


async def test_an_error_of_whoever_reads_goes_on_and_ends_the_reading() -> None:
    budget = Budget(1000)
    with pytest.raises(ValueError, match="of the caller"):
        await fail_after_reading(budget)
    assert budget.free_bytes == 1000


@pytest.mark.parametrize("free", [1000, 0])
async def test_a_cancelled_reader_gives_everything_back(free: int) -> None:
    budget = Budget(1000)
    await budget.take(1000 - free)

    async def read() -> None:
        async with intake(Body([bytes(300)], hangs=True), budget) as reading:
            while step := await reading.step():
                budget.give(sum(map(len, step)))
            await asyncio.Event().wait()

    task = asyncio.create_task(read())
    await quiet()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert budget.free_bytes == free


async def test_a_cancellation_while_the_reading_is_being_ended_is_not_swallowed() -> None:

    async def slow_to_end() -> AsyncIterator[bytes]:
        yield b"x"
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.2)

    async def read() -> str:
        async with Intake(slow_to_end(), budget=Budget(100), max_bytes=100) as reading:
            await reading.step()
        await asyncio.sleep(0)
        return "went on"

    task = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
