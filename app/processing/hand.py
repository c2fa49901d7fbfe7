"""What a worker has in hand: the uploads of one job, until each of their attempts has ended and that is committed."""

import asyncio
from collections.abc import Iterable
from typing import Final
from uuid import UUID

from app.domain.upload import Upload

Attempt = tuple[UUID, int]
"""An upload, and the number of the attempt at it."""


def attempt_of(upload: Upload) -> Attempt:
    """Return what fences a claimed upload."""
    return (upload.id, upload.attempts)


class Hand:
    """The uploads of one job. Those still `working` are in the workshop; the rest waits for its commit."""

    def __init__(self) -> None:
        self.working: Final[dict[Attempt, Upload]] = {}
        self.counted: Final[dict[Attempt, int]] = {}
        """How many attempts count against each upload, this one among them."""
        self.disturbed: Final = asyncio.Event()
        """Set when something of what is being worked on is not to be worked on any longer."""
        self._uncommitted: Final[set[Attempt]] = set()
        self._changed: Final = asyncio.Event()

    @property
    def attempts(self) -> list[Attempt]:
        """All of it whose end is not committed."""
        return [*self.working, *self._uncommitted]

    def take(self, upload: Upload, counted: int) -> None:
        """Take a claimed upload in hand."""
        self.working[attempt_of(upload)] = upload
        self.counted[attempt_of(upload)] = counted

    def ended(self, upload: Upload) -> bool:
        """Note the end of an attempt; False where it was not being worked on."""
        attempt = attempt_of(upload)
        if self.working.pop(attempt, None) is None:
            return False
        self._uncommitted.add(attempt)
        return True

    def committed(self, uploads: Iterable[Upload]) -> None:
        """Let go of uploads whose end is committed."""
        self._uncommitted.difference_update(map(attempt_of, uploads))
        self._changed.set()

    def lose(self, attempts: Iterable[Attempt]) -> int:
        """Let go of what is no longer ours, and return how many of them were being worked on."""
        lost = [attempt for attempt in attempts if self.working.pop(attempt, None)]
        if lost:
            self.disturbed.set()
        return len(lost)

    async def all_committed(self) -> None:
        """Return once nothing waits for its commit."""
        while self._uncommitted:
            self._changed.clear()
            await self._changed.wait()
