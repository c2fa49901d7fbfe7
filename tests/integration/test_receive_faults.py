"""Bodies taken in while something fails or stalls: no gap in what is kept, nothing sealed that is not whole."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from app.domain.errors import BatchFullError, StorageUnavailableError
from app.ingest.receive import Reception, Target
from tests.support.services import (
    BOUNDARY,
    LIMITS,
    MIB,
    OWNER,
    FlakyStore,
    chunks,
    multipart,
    part,
    pattern,
    serving,
)

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)

DELIMITER = b"--" + BOUNDARY + b"\r\n"


class SecondSyncFails:
    """Of what is synced the second fails, but only once `go` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.count = 0

    def __call__(self, call: str) -> None:
        self.count += call == "sync"
        if call == "sync" and self.count == 2:
            assert self.go.wait(20)
            raise StorageUnavailableError


async def three_files(faults: SecondSyncFails) -> AsyncIterator[bytes]:
    """Three files, each committed before the next is whole, but for the second, whose group hangs to the end."""

    async def synced(count: int) -> None:
        async with asyncio.timeout(20):
            while faults.count < count:
                await asyncio.sleep(0.01)

    yield part("a", b"1") + DELIMITER
    await synced(1)
    yield part("b", b"2").removeprefix(DELIMITER) + DELIMITER
    await synced(2)
    yield part("c", b"3").removeprefix(DELIMITER) + multipart()
    asyncio.get_running_loop().call_later(0.2, faults.go.set)


async def test_what_is_kept_has_no_gap_when_a_group_in_the_middle_fails(database_url: str, tmp_path: Path) -> None:
    faults = SecondSyncFails()
    async with serving(database_url, tmp_path / "o", store=FlakyStore(tmp_path / "o", faults)) as services:
        batch = await services.open()
        receipt = await services.receive(three_files(faults), batch.id)
        assert type(receipt.error) is StorageUnavailableError
        assert [upload.filename for upload in receipt.outcomes] == ["a"]
        assert (await services.batches.get(OWNER, batch.id)).total_uploads == 1
        assert services.budget.free_bytes == services.budget.total_bytes


async def test_a_one_shot_of_which_a_part_was_lost_is_not_sealed(database_url: str, tmp_path: Path) -> None:
    faults = SecondSyncFails()
    async with serving(database_url, tmp_path / "o", store=FlakyStore(tmp_path / "o", faults)) as services:
        receipt = await services.receive(three_files(faults))
        assert type(receipt.error) is StorageUnavailableError
        assert receipt.batch
        assert [upload.filename for upload in receipt.outcomes] == ["a"]
        again = await services.receive(chunks(multipart(b"2", b"3")), receipt.batch.id)
        assert again.error is None
        assert again.batch
        assert (again.batch.sealed_at, again.batch.total_uploads) == (None, 3)


async def test_a_body_in_crumbs_ends_soon_after_a_file_of_it_could_not_be_kept(
    database_url: str, tmp_path: Path
) -> None:
    faults = SecondSyncFails()
    faults.go.set()
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        yield part("a", b"1") + DELIMITER
        async with asyncio.timeout(20):
            while faults.count < 1:
                await asyncio.sleep(0.01)
        yield part("b", b"2").removeprefix(DELIMITER) + part("c", b"")[:-2]
        for _ in range(1000):
            read += 1
            yield b"x"
            await asyncio.sleep(0.1)

    async with serving(database_url, tmp_path / "o", store=FlakyStore(tmp_path / "o", faults)) as services:
        receipt = await services.receive(body(), (await services.open()).id)
        assert type(receipt.error) is StorageUnavailableError
        assert [upload.filename for upload in receipt.outcomes] == ["a"]
        assert read < 64  # so many are handed out whatever they are


async def test_a_one_shot_that_is_refused_leaves_no_batch(database_url: str, tmp_path: Path) -> None:
    limits = replace(LIMITS, max_files_per_batch=2)
    async with serving(database_url, tmp_path / "objects", limits=limits) as services:
        receipt = await services.receive(chunks(multipart(b"1", b"2", b"3")))
        assert type(receipt.error) is BatchFullError
        assert await services.value("SELECT count(*) FROM upload_batches") == 0


async def test_a_whole_file_is_committed_before_the_next_byte_comes(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path / "objects") as services:
        batch = await services.open()

        async def body() -> AsyncIterator[bytes]:
            yield part("a", b"1") + part("b", b"2")[:-2]
            async with asyncio.timeout(20):
                while (await services.batches.get(OWNER, batch.id)).total_uploads == 0:
                    await asyncio.sleep(0.01)
            yield b"\r\n" + multipart()

        assert (await services.receive(body(), batch.id)).error is None


async def test_clients_that_stall_do_not_keep_the_memory_from_others(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path / "objects", buffer_bytes=4 * MIB) as services:
        over = asyncio.Event()

        async def stalls(seed: int) -> AsyncIterator[bytes]:
            whole = multipart(pattern(MIB - 10_000, seed))
            yield whole[:-100]
            await over.wait()
            yield whole[-100:]

        stalled = [asyncio.create_task(services.receive(stalls(seed))) for seed in range(4)]
        async with asyncio.timeout(20):
            while services.budget.free_bytes > MIB:
                await asyncio.sleep(0.01)
            receipt = await services.receive(chunks(multipart(pattern(MIB), pattern(3 * MIB))))
        assert receipt.error is None
        over.set()
        for seed, late in enumerate(await asyncio.gather(*stalled)):
            assert await services.content(late.outcomes[0].id) == pattern(MIB - 10_000, seed)
        assert services.budget.free_bytes == services.budget.total_bytes


class SlowParser:
    """Begins a second file long after it was fed."""

    entered = threading.Event()
    go = threading.Event()

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    def can_wait(self, _data: bytes) -> bool:
        return False

    def feed(self, _data: bytes) -> None:
        for name in (b"one", b"two"):
            self._reception.begin_file(name, None)
            self._reception.add(pattern(2 * MIB))
            self._reception.end_file()
            self.entered.set()
            assert self.go.wait(20)

    def finish(self) -> None:
        """Nothing more."""


async def test_a_request_cancelled_in_the_parser_keeps_what_is_whole_and_holds_nothing(
    database_url: str, tmp_path: Path
) -> None:
    async with serving(database_url, tmp_path / "objects") as services:
        batch = await services.open()

        async def find_batch(_field: str | None) -> UUID:
            return batch.id

        target = Target(OWNER, find_batch)
        receiving = asyncio.create_task(services.receiver.receive(chunks(b"x" * 1000, 10), SlowParser, target))
        await asyncio.to_thread(SlowParser.entered.wait, 20)
        receiving.cancel()
        await asyncio.sleep(0.05)
        SlowParser.go.set()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        await services.add(batch, b"the next group")
        assert services.budget.free_bytes == services.budget.total_bytes
        kept = {row["object_id"] for row in await services.rows("SELECT object_id FROM uploads")}
        for object_id in set(services.store.list()) - kept:
            claim = services.store.claim_abandoned(object_id)
            assert claim, "its lock is nobody's any more"
            claim.release()
        assert len(kept) >= 2, "what was whole, and the pack"
        assert await services.counted_wrong() == []
