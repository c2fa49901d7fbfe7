"""Steps of one body through a thread, one behind the other, while the next ones come from the socket."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from app.ingest.budget import Budget

_STEPS: Final = 2
"""One is worked on, and one waits behind it, so that the disk never waits for the event loop."""


class Pump:
    """Does `work` on each step in a thread, in their order. Used by one task at a time.

    The bytes of a step go back to `budget` when its turn is over. After an error no further step is worked on, and that
    error is what `give` and `drain` raise.
    """

    def __init__(self, work: Callable[[list[bytes]], None], budget: Budget) -> None:
        self._work: Final = work
        self._budget: Final = budget
        self._steps: Final[deque[list[bytes]]] = deque()
        self._under_way = 0
        self._running = False
        self._error: Exception | None = None
        self._news: Final = asyncio.Event()

    @property
    def busy(self) -> bool:
        """Whether a step is under way."""
        return self._under_way > 0

    async def give(self, step: list[bytes]) -> None:
        """Take a step over once there is room; where this raises, or is cancelled, it is still the caller's."""
        await self._wait(_STEPS - 1)
        if self._error:
            raise self._error
        self._under_way += 1
        self._steps.append(step)
        if not self._running:
            self._run()

    async def drain(self) -> None:
        """Return when every step was worked on."""
        await self.end()
        if self._error:
            raise self._error

    async def end(self) -> None:
        """Return when no step is under way any more, and raise nothing."""
        await self._wait(0)

    async def _wait(self, most: int) -> None:
        while self._under_way > most:
            self._news.clear()
            await self._news.wait()

    def _run(self) -> None:
        self._running = True
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, self._work_all, loop).add_done_callback(self._ended)

    def _ended(self, _: asyncio.Future[None]) -> None:
        self._running = False
        if self._steps:  # given when the thread had just looked
            self._run()

    def _work_all(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._steps:
            step = self._steps.popleft()
            if self._error is None:
                try:
                    self._work(step)
                except Exception as error:  # noqa: BLE001 - raised to whoever gives
                    self._error = error
            loop.call_soon_threadsafe(self._over, step)

    def _over(self, step: list[bytes]) -> None:
        self._under_way -= 1
        self._budget.give(sum(map(len, step)))
        self._news.set()
