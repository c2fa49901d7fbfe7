"""Bodies to be read by an Intake."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from app.ingest.budget import Budget
from app.ingest.intake import Intake


class Body:
    """A body that notes how far it was read; it ends with `error` where there is one."""

    def __init__(self, chunks: Iterable[bytes], *, error: Exception | None = None, hangs: bool = False) -> None:
        self.read_bytes = 0
        self.chunks = chunks
        self.error = error
        self.hangs = hangs

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            self.read_bytes += len(chunk)
            yield chunk
        if self.hangs:
            await asyncio.Event().wait()
        if self.error:
            raise self.error


def intake(
    body: Body, budget: Budget, *, max_bytes: int = 1 << 40, can_wait: Callable[[bytes], bool] = lambda _: False
) -> Intake:
    return Intake(aiter(body), budget=budget, max_bytes=max_bytes, can_wait=can_wait)
