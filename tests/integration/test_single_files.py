"""Files as whole bodies, and what their senders may hold while they send."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

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
