"""Bodies whose files each have a ref: what they cost the database and the memory, and what is kept where some fail."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from app.domain.errors import NotFoundError, StorageUnavailableError, TruncatedMultipartError
from app.domain.receiving import NewUpload
from app.domain.upload import UploadStatus
from app.ingest.committing import AT_ONCE
from app.ingest.receive import Receipt
from app.repositories.receiving import BY_REFS, LOCK_REFS
from tests.integration.test_foreign_statements import Statements
from tests.integration.test_receive_faults import SecondSyncFails, three_files
from tests.support.images import picture, stored
from tests.support.services import (
    MIB,
    OWNER,
    FlakyStore,
    Services,
    chunks,
    holding,
    multipart,
    part,
    pattern,
    serving,
    someone_waiting,
)

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)


@pytest.fixture
async def services(database_url: str, tmp_path: Path) -> AsyncIterator[Services]:
    async with serving(database_url, tmp_path / "objects") as services:
        yield services
        assert services.budget.free_bytes == services.budget.total_bytes
        assert await services.counted_wrong() == []


def entries(contents: Sequence[bytes]) -> list[NewUpload]:
    """What declares the files of `multipart`."""
    return [
        NewUpload(str(number), str(number), len(content), sha256=hashlib.sha256(content).digest())
        for number, content in enumerate(contents)
    ]


async def whole(services: Services, receipt: Receipt) -> list[bytes]:
    return [await services.content(upload.id) for upload in receipt.outcomes]


async def test_a_thousand_refs_are_looked_up_in_one_statement_and_filled_in_one_transaction(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await services.open()
    contents = [pattern(100 + number, number) for number in range(1000)]
    await services.manifests.declare(OWNER, batch.id, entries(contents))
    statements = Statements(monkeypatch)
    receipt = await services.receive(chunks(multipart(*contents), 1 << 20), batch.id, named=True)
    assert (receipt.error, receipt.sent, receipt.taken) == (None, 1000, 1000)
    assert [upload.ref for upload in receipt.outcomes] == [str(number) for number in range(1000)]
    assert [statements.asked.count(one) for one in (BY_REFS, LOCK_REFS)] == [1, 1]
    assert await services.value("SELECT count(DISTINCT xmin::text) FROM uploads WHERE sha256 IS NOT NULL") == 1
    assert receipt.batch
    assert receipt.batch.receiving_uploads == 0


async def test_more_files_than_are_submitted_at_once_keep_their_order(services: Services) -> None:
    count = 2 * AT_ONCE + 100
    batch = await services.open()
    contents = [b"%d" % number for number in range(count)]
    receipt = await services.receive(chunks(multipart(*contents), 1 << 20), batch.id, named=True)
    assert (receipt.error, receipt.taken) == (None, count)
    assert [upload.ref for upload in receipt.outcomes] == [str(number) for number in range(count)]
    assert receipt.batch == await services.batches.get(OWNER, batch.id)
    assert receipt.batch.total_uploads == count


async def test_of_two_files_of_one_ref_the_first_joins_however_many_stand_before_it(services: Services) -> None:
    batch = await services.open()
    many = b"".join(part(str(number), b"%d" % number) for number in range(AT_ONCE))
    second, waiting = part("x", b"second"), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield many + part("x", b"first") + second[:-20]
        await waiting.wait()
        yield second[-20:] + multipart()
        await asyncio.sleep(0.2)

    async with holding(services.dsn, "SELECT FROM upload_batches FOR UPDATE") as holder:
        receiving = asyncio.create_task(services.receive(body(), batch.id, named=True))
        await someone_waiting(holder)
        waiting.set()
        await asyncio.sleep(0.5)
    receipt = await receiving
    assert (receipt.error, receipt.sent, receipt.taken) == (None, AT_ONCE + 2, AT_ONCE + 1)
    (upload_id,) = [upload.id for upload in receipt.outcomes if upload.ref == "x"]
    assert await services.content(upload_id) == b"first"


@pytest.mark.parametrize("size", [1000, 64 * 1024])
async def test_big_files_among_small_ones_with_little_memory(database_url: str, tmp_path: Path, size: int) -> None:
    contents = [pattern(n * 1000, n) for n in range(40)] + [pattern(3 * MIB, 99), b"", pattern(MIB + 1, 98), b"end"]
    async with serving(database_url, tmp_path / "objects", buffer_bytes=256 * 1024) as services:
        batch = await services.open()
        await services.manifests.declare(OWNER, batch.id, entries(contents)[::2])
        bodies = [multipart(*contents), multipart(*contents)]
        receipts = await asyncio.gather(
            *(services.receive(chunks(body, size), batch.id, named=True) for body in bodies)
        )
        for receipt in receipts:
            assert (receipt.error, receipt.taken) == (None, len(contents))
            assert await whole(services, receipt) == contents
        assert (await services.batches.get(OWNER, batch.id)).total_uploads == len(contents)
        assert services.budget.free_bytes == services.budget.total_bytes
        assert await services.counted_wrong() == []


async def test_files_behind_one_that_the_store_lost_are_kept(database_url: str, tmp_path: Path) -> None:
    faults = SecondSyncFails()
    async with serving(database_url, tmp_path / "o", store=FlakyStore(tmp_path / "o", faults)) as services:
        batch = await services.open()
        receipt = await services.receive(three_files(faults), batch.id, named=True)
        assert type(receipt.error) is StorageUnavailableError
        assert [upload.ref for upload in receipt.outcomes][:1] == ["a"]
        assert "b" not in {upload.ref for upload in receipt.outcomes}
        account = await services.batches.get(OWNER, batch.id)
        assert account.total_uploads == receipt.sent == len(receipt.outcomes)
        assert services.budget.free_bytes == services.budget.total_bytes


async def test_a_cut_body_has_an_outcome_for_each_whole_file(services: Services) -> None:
    contents = [pattern(1000, number) for number in range(50)]
    batch = await services.open()
    body = multipart(*contents)
    receipt = await services.receive(chunks(body[: len(body) // 2]), batch.id, named=True)
    assert type(receipt.error) is TruncatedMultipartError
    assert await whole(services, receipt) == contents[: receipt.sent]
    assert 20 <= receipt.sent <= 25


async def test_a_batch_that_is_deleted_meanwhile_is_said_of_the_request(services: Services) -> None:
    batch = await services.open()
    await services.batches.delete(OWNER, batch.id, with_uploads=True)
    receipt = await services.receive(chunks(multipart(b"1", b"2")), batch.id, named=True)
    assert (type(receipt.error), receipt.sent, receipt.batch) == (NotFoundError, 0, None)


async def test_what_was_processed_and_failed_since_is_still_the_same_file(services: Services) -> None:
    batch = await services.open()
    image = stored(picture(200, 200), "PNG")
    broken = image[: len(image) // 2]
    first = await services.receive(chunks(multipart(broken)), batch.id, named=True)
    await services.pipeline.process([first.outcomes[0].id])
    assert (await services.uploads.get(OWNER, first.outcomes[0].id)).status is UploadStatus.FAILED
    again = await services.receive(chunks(multipart(broken, b"x")), batch.id, named=True)
    assert (again.sent, again.taken) == (2, 2)
    assert again.outcomes[0].id == first.outcomes[0].id
