"""Bodies taken in: what is whole is kept and listed in order, whatever follows; and memory comes back."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from app.domain.batch import BatchStatus
from app.domain.errors import (
    BatchClosedError,
    BoatloadError,
    MalformedMultipartError,
    NoFilesError,
    NotFoundError,
    RequestTooLargeError,
    StorageFullError,
    TooManyUploadsError,
    TruncatedMultipartError,
)
from app.domain.ids import new_id
from app.domain.upload import UploadStatus
from app.ingest.receive import Receipt
from tests.support.services import (
    BOUNDARY,
    LIMITS,
    MIB,
    OWNER,
    STRANGER,
    FlakyStore,
    Services,
    chunks,
    multipart,
    part,
    pattern,
    serving,
)

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)

END = b"--" + BOUNDARY + b"--\r\n"


@pytest.fixture
async def services(database_url: str, tmp_path: Path) -> AsyncIterator[Services]:
    async with serving(database_url, tmp_path / "objects") as services:
        yield services
        assert services.budget.free_bytes == services.budget.total_bytes
        assert await services.counted_wrong() == []


async def kept(services: Services, receipt: Receipt, owner: UUID = OWNER) -> list[bytes]:
    """The contents of what the receipt lists, which is what the batch lists in the order of ids."""
    stored = [upload for upload in receipt.outcomes if not upload.error]
    if receipt.batch:
        page = await services.uploads.list_page(owner, receipt.batch.id, status=None, after=UUID(int=0), limit=1000)
        assert [upload.id for upload in receipt.outcomes] == [upload.id for upload in page]
        assert receipt.batch.total_uploads == len(page)
    return [await services.content(upload.id, owner) for upload in stored]


async def drip_until_joined(services: Services, batch_id: UUID, count: int) -> AsyncIterator[bytes]:
    """Yield bytes of a file that goes on, until so many uploads have joined."""
    async with asyncio.timeout(20):
        while (await services.batches.get(OWNER, batch_id)).total_uploads < count:
            await asyncio.sleep(0.01)
            yield b"."


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
async def test_files_come_back_in_the_order_of_their_parts(services: Services, size: int) -> None:
    contents = [b"", b"\r\n", b"--" + BOUNDARY[:-1], pattern(70_000)]
    if size > 1:
        contents += [pattern(MIB), pattern(MIB + 1), pattern(3 * MIB), b"\r\n--", pattern(2 * MIB), b"last"]
    else:
        contents[-1] = b"last"
    batch = await services.open()
    receipt = await services.receive(chunks(multipart(*contents), size), batch.id)
    assert receipt.error is None
    assert [upload.filename for upload in receipt.outcomes] == [str(number) for number in range(len(contents))]
    assert await kept(services, receipt) == contents
    assert receipt.batch
    assert receipt.batch.sealed_at is None


async def test_a_refused_file_has_its_place_among_the_others(services: Services) -> None:
    names = ["good", "../evil", "also good", "big", "", "end"]
    contents = [b"1", b"2", pattern(MIB + 1), pattern(8 * MIB + 1), b"5", b"6"]
    body = b"".join(map(part, names, contents)) + END
    receipt = await services.receive(chunks(body), (await services.open()).id)
    codes = [upload.error.code if upload.error else None for upload in receipt.outcomes]
    assert codes == [None, "invalid-filename", None, "file-too-large", "invalid-filename", None]
    assert [upload.status for upload in receipt.outcomes].count(UploadStatus.FAILED) == 3
    assert [upload.filename for upload in receipt.outcomes] == names
    assert await kept(services, receipt) == [contents[0], contents[2], contents[5]]


async def test_one_shot_opens_and_seals_in_one_transaction(services: Services) -> None:
    receipt = await services.receive(chunks(multipart(b"1", b"2", b"3")))
    assert receipt.batch
    assert receipt.batch.sealed_at
    assert (receipt.batch.version, receipt.batch.total_uploads) == (2, 3)
    xmins = "SELECT xmin::text FROM upload_batches UNION SELECT xmin::text FROM uploads"
    assert len(await services.rows(xmins)) == 1
    assert await kept(services, receipt) == [b"1", b"2", b"3"]


async def test_one_shot_of_many_steps_seals_with_its_last_file(services: Services) -> None:
    contents = [pattern(400_000, number) for number in range(20)]
    receipt = await services.receive(chunks(multipart(*contents)))
    assert receipt.error is None
    assert receipt.batch
    assert receipt.batch.sealed_at
    assert await kept(services, receipt) == contents


async def test_a_truncated_one_shot_leaves_its_batch_open_with_what_was_whole(services: Services) -> None:
    contents = [b"1", pattern(2 * MIB), pattern(3 * MIB)]
    receipt = await services.receive(chunks(multipart(*contents)[:-MIB]))
    assert type(receipt.error) is TruncatedMultipartError
    assert receipt.batch
    assert receipt.batch.sealed_at is None
    assert await kept(services, receipt) == contents[:2]
    again = await services.receive(chunks(multipart(contents[2])), receipt.batch.id)
    assert again.batch
    assert again.batch.total_uploads == 3
    on_disk = [await asyncio.to_thread(services.store.open, one) for one in services.store.list()]
    for reader in on_disk:
        reader.close()
    assert len(on_disk) == 3, "the object of the file that was cut is gone: the pack and two big ones are left"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", NoFilesError),
        (END, NoFilesError),
        (multipart(b"")[:-20], TruncatedMultipartError),
        (multipart(pattern(3 * MIB))[: 2 * MIB], TruncatedMultipartError),
        (b"nonsense" + multipart(b"1"), MalformedMultipartError),
        (b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="batch_id"\r\n\r\n\r\n' + END, NoFilesError),
    ],
)
async def test_an_error_before_any_file_leaves_no_batch(
    services: Services, body: bytes, error: type[BoatloadError]
) -> None:
    receipt = await services.receive(chunks(body))
    assert type(receipt.error) is error
    assert (receipt.batch, receipt.outcomes) == (None, [])
    assert await services.value("SELECT count(*) FROM upload_batches") == 0
    assert list(services.store.list()) == []


async def test_a_body_that_breaks_off_keeps_what_was_whole_and_raises_its_error(services: Services) -> None:
    class GoneError(Exception):
        pass

    async def breaks() -> AsyncIterator[bytes]:
        yield multipart(b"1", pattern(2 * MIB), b"3", end=False)
        yield part("4", pattern(3 * MIB))[: 2 * MIB]
        raise GoneError

    batch = await services.open()
    with pytest.raises(GoneError):
        await services.receive(breaks(), batch.id)
    page = await services.uploads.list_page(OWNER, batch.id, status=None, after=UUID(int=0), limit=10)
    assert [await services.content(upload.id) for upload in page] == [b"1", pattern(2 * MIB), b"3"]


async def test_a_batch_sealed_meanwhile_ends_the_reading_soon_and_keeps_the_earlier_files(services: Services) -> None:
    batch = await services.open()
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        yield multipart(b"1", b"2", end=False) + part("3", b"")[:-2]
        async for drop in drip_until_joined(services, batch.id, 2):
            yield drop
        await services.batches.seal(OWNER, batch.id)
        yield b"\r\n"
        for number in range(4, 1000):
            read += 1
            await asyncio.sleep(0.001)
            yield part(str(number), pattern(100_000, number))

    receipt = await services.receive(body(), batch.id)
    assert type(receipt.error) is BatchClosedError
    assert [upload.filename for upload in receipt.outcomes] == ["0", "1"]
    assert await kept(services, receipt) == [b"1", b"2"]
    assert read < 100


async def test_files_past_what_was_expected_are_not_kept_and_those_before_are(services: Services) -> None:
    batch = await services.open(expected=3)

    async def body() -> AsyncIterator[bytes]:
        yield multipart(b"1", b"2", end=False) + part("x", b"")[:-2]
        async for drop in drip_until_joined(services, batch.id, 2):
            yield drop
        yield b"\r\n" + part("4", b"4") + END

    receipt = await services.receive(body(), batch.id)
    assert type(receipt.error) is TooManyUploadsError
    assert await kept(services, receipt) == [b"1", b"2"]


async def test_another_owners_batch_takes_nothing(services: Services) -> None:
    batch = await services.open(owner=STRANGER)
    for batch_id in (batch.id, new_id()):
        receipt = await services.receive(chunks(multipart(b"1", pattern(2 * MIB))), batch_id)
        assert type(receipt.error) is NotFoundError
        assert (receipt.batch, receipt.outcomes) == (None, [])
    assert await services.value("SELECT count(*) FROM uploads") == 0


async def test_a_body_over_the_limit_keeps_the_files_before_it(database_url: str, tmp_path: Path) -> None:
    limits = replace(LIMITS, max_request_bytes=3 * MIB)
    async with serving(database_url, tmp_path / "objects", limits=limits) as services:
        receipt = await services.receive(chunks(multipart(b"1", pattern(2 * MIB), pattern(2 * MIB), b"4")))
        assert type(receipt.error) is RequestTooLargeError
        assert await kept(services, receipt) == [b"1", pattern(2 * MIB)]
        assert services.budget.free_bytes == services.budget.total_bytes


async def test_a_store_that_is_full_ends_the_request_and_keeps_the_earlier_files(
    database_url: str, tmp_path: Path
) -> None:
    store = FlakyStore(tmp_path / "objects")
    async with serving(database_url, tmp_path / "objects", store=store) as services:
        batch = await services.open()

        def full(call: str) -> None:
            if call == "write":
                raise StorageFullError

        async def body() -> AsyncIterator[bytes]:
            yield multipart(b"1", end=False) + part("x", b"")[:-2]
            async for drop in drip_until_joined(services, batch.id, 1):
                yield drop
            store.before = full
            yield b"\r\n" + part("3", pattern(3 * MIB))
            for number in range(4, 100):
                yield part(str(number), pattern(100_000))

        receipt = await services.receive(body(), batch.id)
        assert type(receipt.error) is StorageFullError
        assert await kept(services, receipt) == [b"1"]
        assert services.budget.free_bytes == services.budget.total_bytes
        store.before = lambda _call: None
        again = await services.receive(chunks(multipart(b"2")), batch.id)
        assert await services.content(again.outcomes[0].id) == b"2"
        assert await services.counted_wrong() == []


async def test_without_packs_each_upload_has_its_object(database_url: str, tmp_path: Path) -> None:
    limits = replace(LIMITS, pack_file_bytes=0)
    async with serving(database_url, tmp_path / "objects", limits=limits) as services:
        contents = [b"", b"1", pattern(2 * MIB)]
        receipt = await services.receive(chunks(multipart(*contents)))
        assert await kept(services, receipt) == contents
        assert len({upload.object_id for upload in receipt.outcomes}) == 3
        assert {upload.object_offset for upload in receipt.outcomes} == {0}


@pytest.mark.parametrize("buffer_mib", [4, 32])
async def test_many_at_once_share_the_memory_and_all_end(database_url: str, tmp_path: Path, buffer_mib: int) -> None:
    sizes = [100, MIB, 3 * MIB, 5000, MIB - 1, 300_000]
    async with serving(database_url, tmp_path / "objects", buffer_bytes=buffer_mib * MIB) as services:

        async def client(seed: int) -> Receipt:
            contents = [pattern(size, seed) for size in random.Random(seed).sample(sizes, len(sizes))]
            receipt = await services.receive(chunks(multipart(*contents)))
            assert receipt.error is None
            assert receipt.batch
            assert receipt.batch.status is BatchStatus.PROCESSING
            assert await kept(services, receipt) == contents
            return receipt

        async with asyncio.timeout(60):
            await asyncio.gather(*map(client, range(40)))
        assert services.budget.free_bytes == services.budget.total_bytes
        assert await services.counted_wrong() == []
