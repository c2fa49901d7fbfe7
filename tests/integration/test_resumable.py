"""The bytes of declared uploads, piece by piece: offsets are durable, one writer each, and the end is exact."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from app.domain.batch import BatchStatus
from app.domain.errors import (
    ChecksumMismatchError,
    DigestMismatchError,
    NotFoundError,
    OffsetMismatchError,
    SizeConflictError,
    SizeExceededError,
    UploadGoneError,
    UploadLockedError,
)
from app.domain.ids import utc_now
from app.domain.upload import Upload, UploadStatus
from app.processing.expiry import expire_uploads
from tests.support.resuming import Broken, Slow, Sum, body, declare
from tests.support.services import (
    LIMITS,
    MIB,
    OWNER,
    STRANGER,
    FlakyStore,
    Services,
    chunks,
    multipart,
    pattern,
    serving,
)

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)


@pytest.fixture
async def services(database_url: str, tmp_path: Path) -> AsyncIterator[Services]:
    async with serving(database_url, tmp_path / "objects") as services:
        yield services


async def append(services: Services, upload: Upload, data: bytes, *, offset: int) -> Upload:
    return await services.resumable.append(OWNER, upload.id, offset=offset, body=body(data), length=len(data))


async def offset_of(services: Services, upload: Upload) -> int:
    return (await services.resumable.get(OWNER, upload.id)).received_bytes


@pytest.mark.parametrize("pieces", [[5 * MIB], [MIB, MIB, 3 * MIB], [1, 4095, 4096, 5 * MIB - 8192], [5 * MIB - 1, 1]])
async def test_a_file_in_pieces_is_whole_at_its_last_byte(services: Services, pieces: list[int]) -> None:
    content = pattern(5 * MIB)
    upload = await declare(services, len(content), of=content)
    offset = 0
    for size in pieces:
        assert (await offset_of(services, upload)) == offset
        after = await append(services, upload, content[offset : offset + size], offset=offset)
        offset += size
        assert after.received_bytes == offset
        assert await services.counted_wrong() == []
    assert after.status is UploadStatus.PENDING
    assert after.sha256 == hashlib.sha256(content).digest()
    assert after == await services.uploads.get(OWNER, upload.id)
    assert await services.content(upload.id) == content
    assert await services.value("SELECT count(*) FROM boatload_queue.pgqueuer") == 1
    assert len(list(services.store.list())) == 1


@pytest.mark.parametrize("size", [0, 1, 4096, MIB])
async def test_a_small_file_that_comes_whole_lies_in_the_pack(services: Services, size: int) -> None:
    content = pattern(size)
    batch = await services.open()
    (other,) = await services.add(batch, b"something else")
    upload = await declare(services, size, of=content, batch=batch)
    after = await append(services, upload, content, offset=0)
    assert (after.status, after.object_id) == (UploadStatus.PENDING, other.object_id)
    assert await services.content(upload.id) == content
    assert await services.counted_wrong() == []


async def test_a_small_file_in_pieces_is_kept_as_well(services: Services) -> None:
    content = pattern(1000)
    upload = await declare(services, 1000, of=content)
    for offset in range(0, 1000, 100):
        after = await append(services, upload, content[offset : offset + 100], offset=offset)
    assert after.status is UploadStatus.PENDING
    assert await services.content(upload.id) == content


@pytest.mark.parametrize("offset", [1, 99, 101, 2**62])
async def test_a_wrong_offset_names_the_right_one_and_changes_nothing(services: Services, offset: int) -> None:
    upload = await declare(services, 1000)
    await append(services, upload, b"x" * 100, offset=0)
    before = await services.batches.get(OWNER, upload.batch_id or upload.id)
    with pytest.raises(OffsetMismatchError) as wrong:
        await append(services, upload, b"y" * 10, offset=offset)
    assert wrong.value.offset == 100
    assert await services.batches.get(OWNER, before.id) == before


async def test_more_than_declared_is_refused_and_no_excess_byte_kept(services: Services) -> None:
    upload = await declare(services, 100)
    with pytest.raises(SizeExceededError):
        await append(services, upload, b"x" * 101, offset=0)
    with pytest.raises(SizeExceededError):
        await services.resumable.append(OWNER, upload.id, offset=0, body=body(b"x" * 101, chunk=10))
    assert await offset_of(services, upload) == 0
    assert await services.counted_wrong() == []
    assert (await append(services, upload, b"x" * 100, offset=0)).status is UploadStatus.PENDING
    assert (await append(services, upload, b"", offset=100)).received_bytes == 100
    with pytest.raises(SizeExceededError):
        await append(services, upload, b"y", offset=100)


@pytest.mark.parametrize("cut", [0, 1, 4095, 4096, 70_000, MIB, 3 * MIB + 5, 9 * MIB, 10 * MIB - 1])
async def test_a_piece_cut_anywhere_keeps_what_came_and_goes_on_from_there(
    database_url: str, tmp_path: Path, cut: int
) -> None:
    content = pattern(10 * MIB)
    async with serving(database_url, tmp_path / "objects", limits=replace(LIMITS, max_file_bytes=1 << 30)) as services:
        upload = await declare(services, len(content), of=content)
        await append(services, upload, content[:0], offset=0)
        with pytest.raises(Broken):
            await services.resumable.append(OWNER, upload.id, offset=0, body=body(content[:cut], breaks=True))
        assert await offset_of(services, upload) == cut
        assert await services.counted_wrong() == []
        assert (await append(services, upload, content[cut:], offset=cut)).status is UploadStatus.PENDING
        assert await services.content(upload.id) == content
        assert len(list(services.store.list())) == 1


async def test_a_piece_that_fails_its_check_leaves_everything_as_it_was(services: Services) -> None:
    content = pattern(3 * MIB)
    upload = await declare(services, len(content), of=content)
    await append(services, upload, content[:MIB], offset=0)
    rest = content[MIB:]
    right, wrong = hashlib.sha1(rest).digest(), hashlib.sha1(b"else").digest()
    for data, check, error in [(rest, wrong, ChecksumMismatchError), (rest[:-1], right, Broken)]:
        with pytest.raises(error):
            await services.resumable.append(
                OWNER, upload.id, offset=MIB, body=body(data, breaks=error is Broken), checks=[Sum(check)]
            )
        assert await offset_of(services, upload) == MIB
    after = await services.resumable.append(OWNER, upload.id, offset=MIB, body=body(rest), checks=[Sum(right)])
    assert after.status is UploadStatus.PENDING
    assert await services.content(upload.id) == content


@pytest.mark.parametrize("size", [1000, 3 * MIB])
async def test_other_bytes_than_declared_are_refused_and_may_be_sent_again(services: Services, size: int) -> None:
    content = pattern(size)
    batch = await services.open(expected=1)
    upload = await declare(services, size, of=content, batch=batch)
    for _ in range(2):
        with pytest.raises(DigestMismatchError):
            await append(services, upload, pattern(size, seed=1), offset=0)
        failed = await services.uploads.get(OWNER, upload.id)
        assert (failed.status, failed.received_bytes, failed.object_id) == (UploadStatus.FAILED, 0, None)
        assert failed.error
        assert failed.error.code == "digest-mismatch"
        assert (await services.batches.get(OWNER, batch.id)).status is BatchStatus.FAILED
        assert await services.counted_wrong() == []
    await append(services, upload, content[:100], offset=0)
    assert (await services.batches.get(OWNER, batch.id)).status is BatchStatus.PROCESSING
    after = await append(services, upload, content[100:], offset=100)
    assert (after.status, after.error) == (UploadStatus.PENDING, None)
    assert await services.content(upload.id) == content
    assert await services.counted_wrong() == []


async def test_a_file_that_was_refused_as_it_came_and_is_begun_again_expires_with_its_batch(services: Services) -> None:
    batch = await services.open(expected=1)
    (refused,) = (await services.receive(chunks(multipart(pattern(LIMITS.max_file_bytes + 1))), batch.id)).outcomes
    assert (refused.status, refused.size_bytes) == (UploadStatus.FAILED, None)
    with pytest.raises(Broken):
        await services.resumable.append(
            OWNER, refused.id, offset=0, body=body(b"the beginning", breaks=True), final_size=100
        )
    assert (await services.batches.get(OWNER, batch.id)).receiving_uploads == 1
    assert await expire_uploads(services.database, utc_now) == 0
    assert batch.expires_at
    after_all = batch.expires_at + timedelta(seconds=1)
    assert await expire_uploads(services.database, lambda: after_all) == 1
    finished = await services.batches.get(OWNER, batch.id)
    assert (finished.status, finished.failed_uploads) == (BatchStatus.FAILED, 1)
    assert await services.counted_wrong() == []


async def test_a_refused_upload_whose_batch_is_gone_takes_no_other_bytes(services: Services) -> None:
    batch = await services.open()
    upload = await declare(services, 10, of=b"0123456789", batch=batch)
    with pytest.raises(DigestMismatchError):
        await append(services, upload, b"9876543210", offset=0)
    await services.batches.delete(OWNER, batch.id, with_uploads=False)
    with pytest.raises(UploadGoneError):
        await append(services, upload, b"0123456789", offset=0)
    assert (await services.uploads.get(OWNER, upload.id)).status is UploadStatus.FAILED


@pytest.mark.parametrize("size", [1, 1000, MIB, 2 * MIB])
async def test_other_bytes_than_this_call_names_are_refused_where_none_were_declared(
    services: Services, size: int
) -> None:
    upload = await declare(services, size)
    other = hashlib.sha256(b"other").digest()
    with pytest.raises(DigestMismatchError):
        await services.resumable.append(OWNER, upload.id, offset=0, body=body(pattern(size)), sha256=other)
    refused = await services.uploads.get(OWNER, upload.id)
    assert (refused.status, refused.received_bytes, refused.object_id) == (UploadStatus.FAILED, 0, None)
    after = await append(services, upload, pattern(size), offset=0)
    assert (after.status, after.sha256) == (UploadStatus.PENDING, hashlib.sha256(pattern(size)).digest())
    assert await services.counted_wrong() == []


async def test_a_request_cancelled_while_it_takes_the_bytes_locks_nobody_out(database_url: str, tmp_path: Path) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(call: str) -> None:
        if call == "reopen":
            entered.set()
            go_on.wait(20)

    store = FlakyStore(tmp_path / "objects", slow)
    async with serving(database_url, tmp_path / "objects", store=store) as services:
        upload = await declare(services, 2 * MIB)
        await append(services, upload, pattern(MIB), offset=0)
        cancelled = asyncio.create_task(append(services, upload, pattern(MIB), offset=MIB))
        await asyncio.to_thread(entered.wait, 20)
        cancelled.cancel()
        await asyncio.sleep(0.05)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert (await append(services, upload, pattern(MIB), offset=MIB)).status is UploadStatus.PENDING


async def test_a_size_said_late_is_counted_then(services: Services) -> None:
    upload = await declare(services, None)
    await append(services, upload, b"x" * 100, offset=0)
    with pytest.raises(SizeConflictError):
        await services.resumable.append(OWNER, upload.id, offset=100, body=body(b""), final_size=99)
    after = await services.resumable.append(OWNER, upload.id, offset=100, body=body(b"y" * 10), final_size=200)
    assert (after.status, after.size_bytes, after.received_bytes) == (UploadStatus.RECEIVING, 200, 110)
    assert await services.counted_wrong() == []
    with pytest.raises(SizeConflictError):
        await services.resumable.append(OWNER, upload.id, offset=110, body=body(b""), final_size=201)
    assert (await append(services, upload, b"z" * 90, offset=110)).status is UploadStatus.PENDING
    assert await services.content(upload.id) == b"x" * 100 + b"y" * 10 + b"z" * 90
    assert await services.counted_wrong() == []


async def test_a_size_that_is_reached_already_makes_it_whole(services: Services) -> None:
    upload = await declare(services, None)
    await append(services, upload, b"x" * 100, offset=0)
    after = await services.resumable.append(OWNER, upload.id, offset=100, body=body(b""), final_size=100)
    assert after.status is UploadStatus.PENDING
    assert await services.content(upload.id) == b"x" * 100


async def test_nobody_writes_to_what_is_not_theirs(services: Services) -> None:
    upload = await declare(services, 100)
    slow = Slow(b"x" * 50)
    writing = asyncio.create_task(services.resumable.append(OWNER, upload.id, offset=0, body=aiter(slow)))
    await slow.given.wait()
    with pytest.raises(NotFoundError):
        await services.resumable.append(STRANGER, upload.id, offset=0, body=body(b"y" * 100))
    with pytest.raises(NotFoundError):
        await services.resumable.terminate(STRANGER, upload.id)
    slow.go_on.set()
    assert (await writing).received_bytes == 50


async def test_a_new_writer_takes_over_from_one_that_is_still_there(services: Services) -> None:
    content = pattern(3 * MIB)
    upload = await declare(services, len(content), of=content)
    slow = Slow(content[: MIB + 5])
    old = asyncio.create_task(services.resumable.append(OWNER, upload.id, offset=0, body=aiter(slow)))
    await slow.given.wait()
    with pytest.raises(OffsetMismatchError) as moved:
        await asyncio.wait_for(append(services, upload, content, offset=0), 3)
    assert moved.value.offset == MIB + 5
    with pytest.raises(UploadLockedError):
        await old
    assert await services.counted_wrong() == []
    await append(services, upload, content[MIB + 5 :], offset=MIB + 5)
    assert await services.content(upload.id) == content


async def test_who_asks_where_to_go_on_stops_the_old_connection(services: Services) -> None:
    upload = await declare(services, 2 * MIB)
    slow = Slow(b"x" * MIB)
    old = asyncio.create_task(services.resumable.append(OWNER, upload.id, offset=0, body=aiter(slow)))
    await slow.given.wait()
    assert (await services.resumable.settle(OWNER, upload.id)).upload.received_bytes == MIB
    with pytest.raises(UploadLockedError):
        await old
