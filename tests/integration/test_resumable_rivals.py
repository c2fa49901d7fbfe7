"""Many who write the same upload: in one process, in two, dead or alive; and owners who end it meanwhile."""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.domain.errors import (
    BatchClosedError,
    BoatloadError,
    NotFoundError,
    OffsetMismatchError,
    SizeExceededError,
    StorageFullError,
    UploadGoneError,
    UploadLockedError,
)
from app.domain.upload import UploadStatus
from tests.support.resuming import Broken, Slow, body, declare
from tests.support.services import LIMITS, MIB, OWNER, FlakyStore, Services, pattern, serving

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)


@pytest.fixture
async def services(database_url: str, tmp_path: Path) -> AsyncIterator[Services]:
    async with serving(database_url, tmp_path / "objects") as services:
        yield services


async def test_another_process_takes_over_from_a_writer_that_is_still_there(database_url: str, tmp_path: Path) -> None:
    content = pattern(4 * MIB)
    async with (
        serving(database_url, tmp_path / "objects") as here,
        serving(database_url, tmp_path / "objects") as there,
    ):
        upload = await declare(here, len(content), of=content)
        await here.resumable.append(OWNER, upload.id, offset=0, body=body(content[:MIB]))
        slow = Slow(content[MIB : 2 * MIB])
        old = asyncio.create_task(here.resumable.append(OWNER, upload.id, offset=MIB, body=aiter(slow)))
        await slow.given.wait()
        with pytest.raises(OffsetMismatchError) as moved:
            await there.resumable.append(OWNER, upload.id, offset=MIB, body=body(content[MIB:]))
        assert moved.value.offset == 2 * MIB, "what the old one had is kept"
        with pytest.raises(UploadLockedError):
            await old
        after = await there.resumable.append(OWNER, upload.id, offset=2 * MIB, body=body(content[2 * MIB :]))
        assert after.sha256 == hashlib.sha256(content).digest()
        assert await here.content(upload.id) == content
        assert await here.counted_wrong() == []


async def test_pieces_that_alternate_between_processes_make_the_whole(database_url: str, tmp_path: Path) -> None:
    content = pattern(3 * MIB)
    async with (
        serving(database_url, tmp_path / "objects") as here,
        serving(database_url, tmp_path / "objects") as there,
    ):
        upload = await declare(here, len(content), of=content)
        step = 300_000
        for number, offset in enumerate(range(0, len(content), step)):
            process = here if number % 2 else there
            await process.resumable.append(OWNER, upload.id, offset=offset, body=body(content[offset : offset + step]))
        assert (await here.uploads.get(OWNER, upload.id)).status is UploadStatus.PENDING
        assert await there.content(upload.id) == content


async def test_first_pieces_in_two_processes_do_not_mix(database_url: str, tmp_path: Path) -> None:
    content = pattern(2 * MIB)
    async with (
        serving(database_url, tmp_path / "objects") as here,
        serving(database_url, tmp_path / "objects") as there,
    ):
        upload = await declare(here, len(content), of=content)
        slow = Slow(content[:MIB])
        old = asyncio.create_task(here.resumable.append(OWNER, upload.id, offset=0, body=aiter(slow)))
        await slow.given.wait()
        await there.resumable.append(OWNER, upload.id, offset=0, body=body(content))
        slow.go_on.set()
        with pytest.raises((OffsetMismatchError, UploadLockedError)):
            await old
        assert await here.content(upload.id) == content
        assert len(list(here.store.list())) == 1
        assert await here.counted_wrong() == []


async def test_a_writer_whose_process_died_is_taken_over_from(database_url: str, tmp_path: Path) -> None:
    content = pattern(2 * MIB)
    async with serving(database_url, tmp_path / "objects") as here:
        upload = await declare(here, len(content), of=content)
        await here.resumable.append(OWNER, upload.id, offset=0, body=body(content[:MIB]))
        first = await here.uploads.get(OWNER, upload.id)
        assert first.object_id
        lost = here.store.reopen(first.object_id, at=MIB)
        assert lost
        lost.write([b"what no row speaks of" * 1000])
        lost.sync()
        lost.close()  # as the kernel does for the dead
        await here.resumable.append(OWNER, upload.id, offset=MIB, body=body(content[MIB:]))
        assert await here.content(upload.id) == content


@pytest.mark.parametrize("ending", ["cancel", "delete batch", "delete batch and uploads", "delete upload", "terminate"])
async def test_a_writer_is_stopped_when_its_upload_ends(database_url: str, tmp_path: Path, ending: str) -> None:
    async with (
        serving(database_url, tmp_path / "objects") as here,
        serving(database_url, tmp_path / "objects") as there,
    ):
        batch = await here.open()
        upload = await declare(here, 4 * MIB, batch=batch)
        await here.resumable.append(OWNER, upload.id, offset=0, body=body(pattern(MIB)))
        slow = Slow(pattern(MIB))
        writing = asyncio.create_task(here.resumable.append(OWNER, upload.id, offset=MIB, body=aiter(slow)))
        await slow.given.wait()
        if ending == "cancel":
            after = await there.batches.cancel(OWNER, batch.id)
            assert (after.cancelled_uploads, after.received_bytes) == (1, 0)
        elif ending == "delete upload":
            await there.uploads.delete(OWNER, upload.id)
        elif ending == "terminate":
            await here.resumable.terminate(OWNER, upload.id)
        else:
            await there.batches.delete(OWNER, batch.id, with_uploads=ending.endswith("uploads"))
        with pytest.raises((BatchClosedError, UploadGoneError, NotFoundError, UploadLockedError)):
            await asyncio.wait_for(writing, 5)
        assert await here.counted_wrong() == []
        await here.sweeper.remove_abandoned()
        assert list(here.store.list()) == [], "the bytes go with the sweep"


async def test_ten_thousand_rival_pieces_corrupt_nothing(database_url: str, tmp_path: Path) -> None:
    chance = random.Random(4)
    size, pieces, files = 64 * 1024, 20, 10
    contents = [pattern(size * pieces, seed) for seed in range(files)]
    limits = replace(LIMITS, pack_file_bytes=1024)
    async with serving(database_url, tmp_path / "objects", limits=limits) as services:
        batch = await services.open()
        uploads = [
            await declare(services, len(content), of=content, ref=str(number), batch=batch)
            for number, content in enumerate(contents)
        ]
        answers: Counter[str] = Counter()

        async def send(number: int, offset: int) -> None:
            data = contents[number][offset : offset + size]
            try:
                await services.resumable.append(
                    OWNER, uploads[number].id, offset=offset, body=body(data, chunk=16 * 1024), length=len(data)
                )
                answers["kept"] += 1
            except BoatloadError as error:
                answers[error.code] += 1

        async def finish(number: int) -> None:
            """Go on from where it is: a writer that was stopped may have kept a part of its piece."""
            while (done := await services.resumable.get(OWNER, uploads[number].id)).status is UploadStatus.RECEIVING:
                await send(number, done.received_bytes)

        jobs = [(number, piece) for number in range(files) for piece in range(pieces)] * 50
        assert len(jobs) == 10_000
        jobs = [job for start in range(0, len(jobs), 400) for job in chance.sample(jobs[start : start + 400], 400)]
        waiting = iter(jobs)

        async def work() -> None:
            for number, piece in waiting:
                await send(number, piece * size)

        await asyncio.gather(*(work() for _ in range(40)), *(finish(number) for number in range(files)))
        assert answers.keys() <= {"kept", "offset-mismatch", "upload-locked", "size-exceeded"}, answers
        for upload, content in zip(uploads, contents, strict=True):
            assert await services.content(upload.id) == content
        assert await services.value("SELECT count(*) FROM uploads") == files
        assert await services.counted_wrong() == []
        assert (await services.batches.get(OWNER, batch.id)).pending_uploads == files


@pytest.mark.parametrize("failing", ["reopen", "write", "sync"])
async def test_no_row_speaks_of_bytes_that_are_not_durable(database_url: str, tmp_path: Path, failing: str) -> None:
    content = pattern(4 * MIB)
    store = FlakyStore(tmp_path / "objects")
    async with serving(database_url, tmp_path / "objects", store=store) as services:
        upload = await declare(services, len(content), of=content)
        await services.resumable.append(OWNER, upload.id, offset=0, body=body(content[:MIB]))

        def full(call: str) -> None:
            if call == failing:
                raise StorageFullError

        store.before = full
        with pytest.raises(StorageFullError):
            await services.resumable.append(OWNER, upload.id, offset=MIB, body=body(content[MIB:]))
        store.before = lambda _call: None
        assert (await services.resumable.get(OWNER, upload.id)).received_bytes == MIB
        await services.resumable.append(OWNER, upload.id, offset=MIB, body=body(content[MIB:]))
        assert await services.content(upload.id) == content


async def test_memory_that_is_short_moves_small_files_out_of_it(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path / "objects", buffer_bytes=4 * MIB) as services:
        batch = await services.open()
        contents = [pattern(MIB - 1000, seed) for seed in range(20)]
        uploads = [
            await declare(services, len(content), ref=str(number), of=content, batch=batch)
            for number, content in enumerate(contents)
        ]
        slow = [Slow(content[:-1], content[-1:]) for content in contents]
        tasks = [
            asyncio.create_task(services.resumable.append(OWNER, upload.id, offset=0, body=aiter(one)))
            for upload, one in zip(uploads, slow, strict=True)
        ]
        await asyncio.wait_for(asyncio.gather(*(one.given.wait() for one in slow)), 20)
        for one in slow:
            one.go_on.set()
        await asyncio.gather(*tasks)
        assert [await services.content(upload.id) for upload in uploads] == contents
        assert services.budget.free_bytes == services.budget.total_bytes


async def test_every_way_out_gives_its_memory_back(services: Services) -> None:
    for data, error in ((pattern(3 * MIB), Broken), (pattern(5 * MIB), SizeExceededError)):
        upload = await declare(services, 4 * MIB, of=pattern(4 * MIB))
        with pytest.raises(error):
            await services.resumable.append(OWNER, upload.id, offset=0, body=body(data, breaks=error is Broken))
    upload = await declare(services, 4 * MIB)
    slow = Slow(pattern(100))
    writing = asyncio.create_task(services.resumable.append(OWNER, upload.id, offset=0, body=aiter(slow)))
    await slow.given.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert (await services.resumable.get(OWNER, upload.id)).received_bytes == 100
    assert services.budget.free_bytes == services.budget.total_bytes


async def test_a_service_that_ends_first_has_its_pieces_say_what_is_durable(database_url: str, tmp_path: Path) -> None:
    content = pattern(4 * MIB)
    slow = Slow(content[: 2 * MIB])
    async with serving(database_url, tmp_path / "objects") as services:
        upload = await declare(services, len(content), of=content)
        cut = asyncio.create_task(services.resumable.append(OWNER, upload.id, offset=0, body=aiter(slow)))
        await slow.given.wait()
        cut.cancel()  # as uvicorn does, which then waits for nobody
    with pytest.raises(asyncio.CancelledError):
        await cut
    async with serving(database_url, tmp_path / "objects") as services:
        assert (await services.resumable.get(OWNER, upload.id)).received_bytes == 2 * MIB
