"""Thumbnails on their way into the store: small files, in packs of their own."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

from app.domain.upload import Placed
from app.storage.pack import PackWriter
from app.uninterrupted import in_thread

_IDLE_CHECK_SECONDS: Final = 61
"""A little more than a pack is idle for before it is left behind."""


class Thumbnails:
    """Makes thumbnails durable. One per process, on a pack of its own; whoever made it closes it."""

    def __init__(self, pack: PackWriter) -> None:
        self._pack: Final = pack
        self._turn: Final = asyncio.Lock()
        self._idle_check: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def placed(self, images: Mapping[UUID, bytes]) -> AsyncIterator[dict[UUID, Placed]]:
        """Lend the places of `images` under the same keys, durable. Commit the rows that refer to them inside.

        Inside, the sweeper keeps away from them; afterwards the rows must. Others who have thumbnails wait: a pack is
        held until its rows are committed, and one at a time is what a pack can do. Raises StorageFullError or
        StorageUnavailableError; then none of them is kept.
        """
        if not images:
            yield {}
            return
        async with self._turn:
            pack_id, offsets = await in_thread(self._pack.append, [[image] for image in images.values()])
            try:
                yield {
                    key: Placed(pack_id, offset, len(image))
                    for (key, image), offset in zip(images.items(), offsets, strict=True)
                }
            finally:
                self._pack.roll_if_full()
                self._check_idle_later()

    async def close(self) -> None:
        """Leave the pack behind."""
        async with self._turn:
            if self._idle_check:
                self._idle_check.cancel()
            await asyncio.to_thread(self._pack.close)

    def _check_idle_later(self) -> None:
        if self._idle_check:
            self._idle_check.cancel()
        self._idle_check = asyncio.get_running_loop().call_later(_IDLE_CHECK_SECONDS, self._roll_if_idle)

    def _roll_if_idle(self) -> None:
        if not self._turn.locked():
            self._pack.roll_if_idle()


def ends_of(places: Iterable[Placed]) -> list[tuple[UUID, int]]:
    """Return each pack, and how far it is durable."""
    ends: dict[UUID, int] = {}
    for place in places:
        ends[place.object_id] = max(place.offset + place.size_bytes, ends.get(place.object_id, 0))
    return list(ends.items())
