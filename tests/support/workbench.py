"""Files in a pack, and a sandbox that looks into them: processing without a database."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from app.domain.ids import new_id
from app.domain.upload import Upload, UploadStatus
from app.processing.outcome import Outcome
from app.processing.sandbox import Sandbox
from app.storage.local import LocalStore
from app.storage.pack import PackWriter
from tests.support.services import orders_for
from tests.support.values import make_upload


@dataclass(frozen=True, slots=True)
class Bench:
    """A sandbox, and the store that it reads from."""

    store: LocalStore
    sandbox: Sandbox

    def stored(self, *contents: bytes, **changes: Any) -> list[Upload]:  # noqa: ANN401 - the fields of Upload
        """Return uploads of a first attempt, all in one pack."""
        pack = PackWriter(self.store, pack_bytes=1 << 30, new_id=new_id)
        pack_id, offsets = pack.append([[content] for content in contents])
        pack.close()
        return [
            make_upload(
                UploadStatus.PROCESSING,
                id=new_id(),
                object_id=pack_id,
                object_offset=offset,
                size_bytes=len(content),
                received_bytes=len(content),
                attempts=1,
                **changes,
            )
            for content, offset in zip(contents, offsets, strict=True)
        ]

    async def process(self, uploads: Sequence[Upload], *, seconds: float = 60) -> list[Outcome]:
        """Return the outcomes in the order of the uploads, each of which has exactly one."""
        async with asyncio.timeout(seconds), aclosing(self.sandbox.process(uploads)) as outcomes:
            found = {outcome.upload.id: outcome async for outcome in outcomes}
        assert len(found) == len(uploads)
        return [found[upload.id] for upload in uploads]


@asynccontextmanager
async def bench(
    folder: Path,
    *,
    processes: int = 2,
    chosen: Mapping[UUID, tuple[str, ...]] | None = None,
    **orders: Any,  # noqa: ANN401 - the fields of Orders
) -> AsyncIterator[Bench]:
    """Run a sandbox over a new store; `chosen` is what batches asked for."""
    store = LocalStore(folder)
    store.prepare()

    async def choices(batch_ids: object) -> Mapping[UUID, tuple[str, ...]]:
        assert batch_ids is not None
        return chosen or {}

    sandbox = Sandbox(orders_for(folder, **orders), processes=processes, choices=choices)
    try:
        yield Bench(store, sandbox)
    finally:
        await sandbox.close()
