"""How much owners may hold: set by operators, shown to owners, and asked before a body is read.

What is asked beforehand spares bytes that would be read in vain. What holds is decided where rows are committed.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

from app.db.pool import Database
from app.domain.errors import QuotaExceededError
from app.domain.quota import Holding, Quota, Standing
from app.repositories.quota_usage import NOBODY
from app.repositories.unit_of_work import reading, unit_of_work

_LOOK_SECONDS: Final = 10.0
"""How soon a process learns that the first quota was set."""
_PAUSES: Final = (0.02, 0.1, 0.4)
"""How long to wait, each time, for bodies that were announced before to be counted, or to fail."""


class QuotaService:
    """One per process. All methods may raise DatabaseUnavailableError."""

    def __init__(self, database: Database, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database: Final = database
        self._monotonic: Final = monotonic
        self._counting = False
        self._look_at = 0.0
        self._coming: Final[Counter[UUID]] = Counter()
        """Bytes of bodies that are being received in this process, by owner."""

    async def begin(self, everybody: Quota) -> None:
        """Make this the quota of all who have none of their own; where it is none, and nobody has, count nothing."""
        async with reading(self._database) as uow:
            self._counting = await uow.usage.is_counting()
        if self._counting or everybody != Quota():
            await self._put(NOBODY, everybody)

    async def set(self, owner: UUID, quota: Quota) -> None:
        """Set what an owner may hold; where it says None, the same as everybody."""
        await self._put(owner, quota)

    async def list_all(self) -> dict[UUID, Quota]:
        """Return what is set, by owner; what holds for everybody is under NOBODY."""
        async with reading(self._database) as uow:
            return await uow.quotas.list_all()

    async def recount(self) -> None:
        """Count anew what everybody holds. Until that is done nothing is written by others."""
        async with unit_of_work(self._database) as uow:
            await uow.usage.recount()
        self._counting = True

    async def find(self, owner: UUID) -> Standing | None:
        """Return what an owner holds and may hold, or None where nobody has a quota."""
        async with reading(self._database) as uow:
            standing = await uow.usage.find(owner)
        self._counting = standing is not None
        self._look_at = self._monotonic() + _LOOK_SECONDS
        return standing

    async def check(self, owner: UUID, size: int) -> None:
        """Return if a body with at least so many bytes of files, and one file, may be kept. Raises QuotaExceededError.

        One without room for a single byte is refused: whoever sends a body has files to send.
        """
        if standing := await self._look(owner):
            standing.with_more(Holding(max(size, 1), 1))

    @asynccontextmanager
    async def reserved(self, owner: UUID, size: int) -> AsyncIterator[None]:
        """Keep room for a file of that size while it is being received. Raises QuotaExceededError where there is none.

        Room that others of the owner's have been given, here, is not given again. If theirs turn out not to need it, or
        are stored, in a moment, that is waited for.
        """
        await self._find_room(owner, size)
        self._coming[owner] += size
        try:
            yield
        finally:
            self._coming[owner] -= size
            if not self._coming[owner]:
                del self._coming[owner]

    async def _find_room(self, owner: UUID, size: int) -> None:
        """Return while there is room, without letting go of the event loop behind the last look."""
        for pause in (*_PAUSES, None):
            standing = await self._look(owner)
            if standing is None:
                return
            standing.with_more(Holding(size, 1))
            try:
                standing.with_more(Holding(self._coming[owner] + size, 1))
            except QuotaExceededError:
                if pause is None:
                    raise
                await asyncio.sleep(pause)
            else:
                return

    async def _look(self, owner: UUID) -> Standing | None:
        """Do as `find`, but where nobody had a quota a moment ago, ask nothing."""
        return await self.find(owner) if self._counting or self._monotonic() >= self._look_at else None

    async def _put(self, owner: UUID, quota: Quota) -> None:
        async with unit_of_work(self._database) as uow:
            if not await uow.usage.is_counting():
                await uow.usage.recount()
            await uow.quotas.put(owner, quota)
        self._counting = True
