from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

from app.api.multipart import MultipartBody
from app.domain.ids import new_id
from app.ingest.budget import Budget
from app.ingest.receive import Receiver, Target
from app.ingest.submission import Kept, Submission
from tests.conformance.conftest import local_store
from tests.support.breaking_store import BreakingStore
from tests.support.receiving import BOUNDARY, LIMITS, message, part
from tests.support.values import OWNER, make_batch


class Committed:
    """Stands in for the group commit: each submission is done at once."""

    def __init__(self, store: BreakingStore) -> None:
        self.store = store
        self.most_open = 0
        self.sizes: list[int] = []

    async def submit(self, submission: Submission) -> Kept:
        self.most_open = max(self.most_open, sum(not writer.closed for writer in self.store.writers))
        self.sizes.append(len(submission.arrivals))
        for arrival in submission.arrivals:
            arrival.abandon()
        return make_batch(), []


async def test_a_fast_sender_of_big_files_does_not_use_up_the_open_files(tmp_path: Path) -> None:
    """What is whole is held back while more is there already, up to `_HOLD_BYTES` of *memory*; a file with an object of
    its own holds none, but an open descriptor: as many as the body has files (ulimit -n is often 1024)."""
    store = BreakingStore(local_store(tmp_path))
    group = Committed(store)
    budget = Budget(1 << 25)
    receiver = Receiver(store=store, group=group, budget=budget, limits=LIMITS, new_id=new_id)
    body_bytes = message(*(part(b"x" * 5000, filename=f"{n}") for n in range(1000)))

    async def body() -> AsyncIterator[bytes]:
        for start in range(0, len(body_bytes), 65536):
            yield body_bytes[start : start + 65536]

    async def find_batch(_: str | None) -> UUID | None:
        return UUID(int=1)

    receipt = await receiver.receive(
        body(), lambda one: MultipartBody(BOUNDARY, one, max_parts=2000), Target(OWNER, find_batch)
    )
    assert receipt.error is None
    assert sum(group.sizes) == 1000
    assert group.most_open <= 300, (group.most_open, group.sizes)
    assert budget.free_bytes == budget.total_bytes
