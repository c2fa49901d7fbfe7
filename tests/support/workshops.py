"""Workshops that a test steers, between the pipeline and a real sandbox or none."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, cast
from uuid import UUID

from app.domain.upload import Refusal, Upload
from app.processing.outcome import Found, Outcome
from app.processing.sandbox import Sandbox
from tests.support.services import orders_for

BROKEN: Final = Refusal("processor-crashed", "It broke.")


async def nothing_chosen(_batch_ids: Collection[UUID]) -> dict[UUID, tuple[str, ...]]:
    """Say that every batch leaves its processors to the service."""
    return {}


class WatchedWorkshop:
    """A real sandbox; counts what it is asked for, and tells a test before it begins. The fixture closes it."""

    def __init__(self, folder: Path) -> None:
        self.inner: Final = Sandbox(orders_for(folder), processes=2, choices=nothing_chosen)
        self.asked: Final[list[int]] = []
        self.before: Callable[[Sequence[Upload]], Awaitable[object]] | None = None

    async def process(self, uploads: Sequence[Upload]) -> AsyncIterator[Outcome]:
        self.asked.append(len(uploads))
        if self.before:
            await self.before(uploads)
        async with aclosing(cast("AsyncGenerator[Outcome]", self.inner.process(uploads))) as outcomes:
            async for outcome in outcomes:
                yield outcome


class ScriptedWorkshop:
    """Ends each upload as `ends` says of it, at once; those that are `slow` only when they are let go."""

    def __init__(self) -> None:
        self.ends: Callable[[Upload], Outcome] = found
        self.slow: Final[dict[UUID, asyncio.Event]] = {}
        self.at_work: Final[set[UUID]] = set()
        self.given_up: Final[set[UUID]] = set()

    def hold(self, *uploads: Upload) -> None:
        self.slow.update((upload.id, asyncio.Event()) for upload in uploads)

    def let_go(self) -> None:
        for event in self.slow.values():
            event.set()

    async def process(self, uploads: Sequence[Upload]) -> AsyncIterator[Outcome]:
        left = {upload.id: upload for upload in uploads}
        self.at_work.update(left)
        try:
            for upload in [one for one in uploads if one.id not in self.slow]:
                del left[upload.id]
                yield self.ends(upload)
            for upload in list(left.values()):
                await self.slow[upload.id].wait()
                del left[upload.id]
                yield self.ends(upload)
        finally:
            self.given_up.update(left)
            self.at_work.difference_update(upload.id for upload in uploads)


class Gate:
    """Holds whoever comes, until it is opened."""

    def __init__(self) -> None:
        self.reached: Final = asyncio.Event()
        self.opened: Final = asyncio.Event()

    async def __call__(self, _uploads: Sequence[Upload]) -> None:
        self.reached.set()
        await self.opened.wait()


def found(upload: Upload) -> Outcome:
    return Outcome(upload, Found(detected_type="text/plain"))


def passing(upload: Upload) -> Outcome:
    return Outcome(upload, error=Refusal("processor-crashed", f"Broke at attempt {upload.attempts}."), passing=True)


def final(upload: Upload) -> Outcome:
    return Outcome(upload, error=BROKEN)


def out_of_reach(upload: Upload) -> Outcome:
    return Outcome(upload, blameless=True)
