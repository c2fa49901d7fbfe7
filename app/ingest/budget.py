"""The memory that all bodies being received share."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final


class Budget:
    """So many bytes, taken and given back; whoever finds too few waits its turn, and its socket with it.

    Used from one event loop.
    """

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes: Final = total_bytes
        self.free_bytes = total_bytes
        self._waiting: Final[deque[tuple[int, asyncio.Future[None]]]] = deque()
        self._holders: Final[set[Callable[[], None]]] = set()

    def watch(self, shortage: Callable[[], None]) -> None:
        """Have `shortage` called whenever somebody finds too few bytes, so that those who can spare some do."""
        self._holders.add(shortage)

    def unwatch(self, shortage: Callable[[], None]) -> None:
        """Undo `watch`."""
        self._holders.discard(shortage)

    def try_take(self, size: int) -> bool:
        """Take `size` bytes if they are free and nobody waits; say whether they were."""
        if self._waiting or size > self.free_bytes:
            return False
        self.free_bytes -= size
        return True

    async def take(self, size: int) -> None:
        """Take `size` bytes, at most `total_bytes`, in the order of the calls."""
        if self.try_take(size):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        for shortage in self._holders:
            shortage()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(size)
            else:
                with suppress(ValueError):  # gone already where bytes came back at the same moment
                    self._waiting.remove((size, turn))
                self._admit()
            raise

    def give(self, size: int) -> None:
        """Give `size` bytes back."""
        self.free_bytes += size
        self._admit()

    def _admit(self) -> None:
        admitted = False
        while self._waiting and self._waiting[0][0] <= self.free_bytes:
            size, turn = self._waiting.popleft()
            if not turn.cancelled():
                self.free_bytes -= size
                turn.set_result(None)
                admitted = True
        if admitted and self._waiting:  # who was admitted may have heard of the shortage when it held nothing
            for shortage in self._holders:
                shortage()
