"""Crumbs that can wait for more: nobody is woken for them, and nothing of them is lost."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.ingest.budget import Budget
from app.ingest.intake import Intake
from tests.unit.conftest import quiet
from tests.unit.reading import Body, intake

PLENTY = 1 << 20


def can_wait(chunk: bytes) -> bool:
    return chunk[:1] == b"."


class Fed:
    """A body whose chunks come when they are given."""

    def __init__(self) -> None:
        self.chunks: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def give(self, *chunks: bytes | None) -> None:
        for chunk in chunks:
            self.chunks.put_nowait(chunk)
        await quiet()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self.chunks.get()) is not None:
            yield chunk


def patient(body: Fed, budget: Budget) -> Intake:
    return Intake(aiter(body), budget=budget, max_bytes=PLENTY, can_wait=can_wait)


async def waiting(reading: Intake) -> "asyncio.Task[list[bytes] | None]":
    """A step that waits."""
    step = asyncio.create_task(reading.step())
    await quiet()
    return step


async def test_crumbs_wait_for_what_cannot_and_come_with_it_in_one() -> None:
    body, budget = Fed(), Budget(PLENTY)
    async with patient(body, budget) as reading:
        step = await waiting(reading)
        await body.give(b".a", b".b")
        assert not step.done()
        assert reading.idle
        assert budget.free_bytes == PLENTY - 4
        await body.give(b"!")
        assert await step == [b".a.b!"]


async def test_crumbs_wait_for_the_end() -> None:
    body = Fed()
    async with patient(body, Budget(PLENTY)) as reading:
        step = await waiting(reading)
        await body.give(b".a", None)
        assert [await step, await reading.step()] == [[b".a"], None]


async def test_crumbs_come_before_what_breaks_the_body() -> None:
    body = Body([b".a", b".b"], error=ConnectionResetError("gone"))
    async with intake(body, Budget(PLENTY), can_wait=can_wait) as reading:
        assert await reading.step() == [b".a.b"]
        with pytest.raises(ConnectionResetError, match="gone"):
            await reading.step()


async def test_crumbs_come_when_there_are_many_of_them() -> None:
    body, budget = Fed(), Budget(PLENTY)
    async with patient(body, budget) as reading:
        for _ in range(3):
            step = await waiting(reading)
            given = 0
            while not step.done():
                await body.give(b".x")
                given += 1
                assert given < 1000
            assert await step == [b".x" * given]
            assert given > 2


async def test_crumbs_come_when_memory_is_short() -> None:
    body, budget = Fed(), Budget(PLENTY)
    async with patient(body, budget) as reading:
        step = await waiting(reading)
        await body.give(b".a")
        taking = asyncio.create_task(budget.take(PLENTY))
        assert await step == [b".a"]
        assert await reading.step() == []
        budget.give(2)
        await taking


async def test_what_is_no_crumb_waits_for_nothing() -> None:
    body = Fed()
    async with patient(body, Budget(PLENTY)) as reading:
        step = await waiting(reading)
        await body.give(b"." * 4096)
        assert await step == [b"." * 4096]


async def test_nothing_is_asked_of_who_is_at_work() -> None:
    """It is asked only while a step waits: the parser may be in a thread otherwise."""
    asked: list[bytes] = []

    def note(chunk: bytes) -> bool:
        asked.append(chunk)
        return True

    body = Fed()
    async with Intake(aiter(body), budget=Budget(PLENTY), max_bytes=PLENTY, can_wait=note) as reading:
        await body.give(b"before a step")
        assert await reading.step() == [b"before a step"]
        await body.give(b"behind a step", b" more")
        assert await reading.step() == [b"behind a step more"]
        assert asked == []
        step = await waiting(reading)
        await body.give(b"while it waits")
        assert not step.done()
        assert asked == [b"while it waits"]
        await body.give(None)
        assert await step == [b"while it waits"]


async def test_leaving_gives_back_crumbs_that_wait() -> None:
    body, budget = Fed(), Budget(PLENTY)
    async with patient(body, budget) as reading:
        step = await waiting(reading)
        await body.give(b".a")
        step.cancel()
        await quiet()
        assert reading.rest() == [b".a"]
        await body.give(b".b")
    assert budget.free_bytes == PLENTY - 2  # what `rest` returned is the taker's
