"""Files as whole bodies, and what their senders may hold while they send."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.domain.errors import (
    BatchClosedError,
    DigestMismatchError,
    NotFoundError,
    QuotaExceededError,
    RefConflictError,
)
from app.domain.ids import new_id
from app.domain.quota import Quota
from app.domain.receiving import NewUpload
from app.ingest.single import SMALL_BYTES, Body
from tests.support.resuming import Slow, body
from tests.support.services import OWNER, serving

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)


def given(slow: Slow) -> AsyncIterator[bytes]:
    return slow.__aiter__()


async def test_small_files_that_do_not_come_hold_no_memory_that_others_need(database_url: str, tmp_path: Path) -> None:
    promised = 8
    async with serving(database_url, tmp_path / "objects", buffer_bytes=promised * SMALL_BYTES) as services:
        batch = await services.open()
        bodies = [Slow(b"begun", bytes(SMALL_BYTES - 5)) for _ in range(promised)]
        stalled = [
            asyncio.create_task(services.single_files.put(OWNER, batch.id, f"{number}", Body(given(one), SMALL_BYTES)))
            for number, one in enumerate(bodies)
        ]
        for one in bodies:
            await asyncio.wait_for(one.given.wait(), 20)
        _, stored = await asyncio.wait_for(
            services.single_files.put(OWNER, batch.id, "mine", Body(body(b"whole"), 5)), 20
        )
        assert stored
        for one in bodies:
            one.go_on.set()
        assert [stored for _, stored in await asyncio.gather(*stalled)] == [True] * promised
        assert services.budget.free_bytes == services.budget.total_bytes


def stored_bytes(objects: Path) -> int:
    return sum(path.stat().st_size for path in objects.rglob("*") if path.is_file())


async def test_the_bytes_of_what_is_refused_are_not_written(database_url: str, tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    async with serving(database_url, objects) as services:
        batch, sealed = await services.open(), await services.open()
        await services.batches.seal(OWNER, sealed.id)
        await services.manifests.declare(
            OWNER, batch.id, [NewUpload("declared", "declared", 30_000, sha256=bytes(32)), NewUpload("long", "long", 7)]
        )
        await services.single_files.put(OWNER, batch.id, "there", Body(body(b"the first"), 9))
        before = stored_bytes(objects)
        refused = [
            (new_id(), "a", NotFoundError),
            (sealed.id, "a", BatchClosedError),
            (batch.id, "there", RefConflictError),
            (batch.id, "long", RefConflictError),
            (batch.id, "declared", DigestMismatchError),
        ]
        for number, (batch_id, name, error) in enumerate(refused):
            content = bytes([number + 1]) * 30_000
            with pytest.raises(error):
                await services.single_files.put(OWNER, batch_id, name, Body(body(content), len(content)))
        await services.quotas.set(OWNER, Quota(bytes=40_000))
        with pytest.raises(QuotaExceededError):  # nobody knew yet that there is no room; the next is not written
            await services.single_files.put(OWNER, batch.id, "over", Body(body(b"o" * 45_000), 45_000))
        while_unknown = stored_bytes(objects) - before
        assert 45_000 <= while_unknown <= 45_000 + 4096
        for number in range(5):
            content = bytes([number + 9]) * 50_000
            with pytest.raises(QuotaExceededError):
                await services.single_files.put(OWNER, batch.id, f"{number}", Body(body(content), len(content)))
        assert stored_bytes(objects) - before == while_unknown
        _, stored = await services.single_files.put(OWNER, batch.id, "fits", Body(body(b"fits"), 4))
        assert stored
