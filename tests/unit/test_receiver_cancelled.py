import asyncio
import threading
from collections.abc import AsyncIterator
from typing import cast
from uuid import UUID

import pytest

from app.api.multipart import MultipartBody
from app.domain.ids import new_id
from app.ingest.budget import Budget
from app.ingest.group import GroupCommit
from app.ingest.receive import Receiver, Target
from app.storage.base import Store
from app.storage.local import LocalStore
from tests.support.breaking_store import BreakingStore, BreakingWriter
from tests.support.receiving import BOUNDARY, LIMITS, part
from tests.support.values import OWNER


class SlowStore(BreakingStore):
    """Takes its time to make an object, as a disk under load does."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.entered, self.go_on = threading.Event(), threading.Event()

    def create(self, object_id: UUID, *, big: bool = False) -> BreakingWriter:
        self.entered.set()
        self.go_on.wait(10)
        return super().create(object_id, big=big)


async def endless() -> AsyncIterator[bytes]:
    yield b"--" + BOUNDARY + b"\r\n" + part(b"x" * 5000, filename="a")
    await asyncio.Event().wait()


async def no_batch(_field: str | None) -> UUID | None:
    raise AssertionError("no file became whole")


async def test_a_request_cancelled_while_a_thread_works_on_it_leaves_nothing_behind(store: LocalStore) -> None:
    slow = SlowStore(store)
    budget = Budget(1 << 25)
    no_group = cast("GroupCommit", None)  # no file becomes whole, so nothing is committed
    receiver = Receiver(store=slow, group=no_group, budget=budget, limits=LIMITS, new_id=new_id)
    receiving = asyncio.create_task(
        receiver.receive(
            endless(), lambda reception: MultipartBody(BOUNDARY, reception, max_parts=9), Target(OWNER, no_batch)
        )
    )
    await asyncio.to_thread(slow.entered.wait, 10)
    receiving.cancel()
    await asyncio.sleep(0.05)
    slow.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    assert [writer.closed for writer in slow.writers] == [True]
    assert list(slow.list()) == []
    assert budget.free_bytes == budget.total_bytes
    receiver.close()
