"""Reading a body ahead of whoever parses it, a step at most, within the budget."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final, Self

from app.domain.errors import RequestTooLargeError
from app.domain.limits import STEP_BYTES
from app.ingest.budget import Budget

CRUMB_BYTES: Final = 1024
"""What is no more than this is less work than to wake somebody for it."""
_CRUMBS: Final = 64
"""So many that wait are worth the work."""


class Intake:
    """The chunks of one body, in steps. An async context manager, which ends the reading on the way out.

    While one step is being worked on, the next one gathers here, up to `STEP_BYTES`; then the socket waits. So a lone
    chunk is handed out at once, and steps grow by themselves when the work is slower than the network. The bytes of
    each step are taken from `budget` before they are handed out; whoever took the step gives them back.

    A body that comes in crumbs would have whoever works on it woken for each. `can_wait` says of a chunk whether it may
    as well be worked on when more has come; up to 64 are held back so. It is asked while a step waits, never while one
    is being worked on.

    `body` yields chunks of at most the budget's size, and may raise: what was read before is handed out first.
    """

    def __init__(
        self,
        body: AsyncIterator[bytes],
        *,
        budget: Budget,
        max_bytes: int,
        can_wait: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        self._body: Final = body
        self._budget: Final = budget
        self._max_bytes: Final = max_bytes
        self._can_wait: Final = can_wait
        self._chunks: list[bytes] = []
        self._gathered = 0
        self._starved = False
        self._is_awaited = False
        """Whether a step waits, or is about to go on."""
        self._news: Final = asyncio.Event()
        self._room: Final = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._budget.watch(self._shortage)
        self._reading = asyncio.create_task(self._read())
        self._reading.add_done_callback(lambda _: self._news.set())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._reading is not None
        self._budget.unwatch(self._shortage)
        self._reading.cancel()
        try:
            await asyncio.wait([self._reading])
        finally:
            if self._reading.done() and not self._reading.cancelled():
                self._reading.exception()  # whoever wanted to know has asked `step`
            self._budget.give(self._gathered)
            self._gathered = 0

    @property
    def idle(self) -> bool:
        """Whether `step` would have to wait."""
        return not self._news.is_set()

    async def step(self) -> list[bytes] | None:
        """Return the chunks that have gathered; an empty list where memory is short; None at the end.

        An empty list asks the caller to let go of what memory it can: somebody, here or elsewhere, waits for some.
        Raises RequestTooLargeError past `max_bytes`, and whatever `body` raised.
        """
        assert self._reading is not None
        while True:
            self._is_awaited = True
            try:
                await self._news.wait()
            finally:
                self._is_awaited = False
            self._news.clear()
            if self._chunks:
                chunks = [b"".join(self._chunks)] if self._gathered <= _CRUMBS * CRUMB_BYTES else self._chunks
                self._chunks, self._gathered = [], 0
                self._room.set()
                if self._reading.done() or self._starved:
                    self._news.set()
                return chunks
            if self._reading.done():
                self._news.set()
                self._reading.result()
                return None
            if self._starved:
                self._starved = False
                return []

    def rest(self) -> list[bytes]:
        """Return what has gathered, for a caller that takes no further step; nothing is waited for."""
        chunks, self._chunks, self._gathered = self._chunks, [], 0
        return chunks

    def _shortage(self) -> None:
        self._starved = True
        self._news.set()

    def _is_patient(self, chunk: bytes) -> bool:
        is_crumb = len(chunk) <= CRUMB_BYTES and len(self._chunks) < _CRUMBS
        return is_crumb and self._is_awaited and self._can_wait(chunk)

    async def _read(self) -> None:
        total = 0
        async for chunk in self._body:
            total += len(chunk)
            if total > self._max_bytes:
                raise RequestTooLargeError(
                    f"The body is over {self._max_bytes} bytes.", max_request_bytes=self._max_bytes
                )
            await self._budget.take(len(chunk))
            self._chunks.append(chunk)
            self._gathered += len(chunk)
            if not self._is_patient(chunk):
                self._news.set()
            while self._gathered >= STEP_BYTES:
                self._room.clear()
                await self._room.wait()
