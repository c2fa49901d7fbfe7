"""Bytes that an owner has stored already are not stored again, nobody else's are looked at, and none is lost by it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.domain.receiving import Action
from app.domain.upload import UploadStatus
from app.ingest.submission import Submission
from tests.support.resuming import body, declare, entry
from tests.support.services import MIB, OWNER, STRANGER, Services, holding, later, pattern, serving, someone_waiting

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)


@pytest.fixture
async def services(database_url: str, tmp_path: Path) -> AsyncIterator[Services]:
    async with serving(database_url, tmp_path / "objects") as services:
        yield services


@pytest.mark.parametrize("size", [0, 1, 5000, MIB + 1])
async def test_the_same_bytes_lie_once_for_each_owner(services: Services, size: int) -> None:
    content = pattern(size)
    places = {}
    for owner in (OWNER, STRANGER):
        batch = await services.open(owner=owner)
        arrivals = services.files(content, content)
        _, uploads = await services.group.submit(Submission(owner, batch.id, arrivals))
        assert [arrival.duplicate for arrival in arrivals] == [False, True]
        uploads += await services.add(await services.open(owner=owner), content)
        places[owner] = {(upload.object_id, upload.object_offset) for upload in uploads}
        assert len(places[owner]) == 1
        assert [await services.content(upload.id, owner) for upload in uploads] == [content] * 3
    assert not size or not places[OWNER] & places[STRANGER]
    assert await services.counted_wrong() == []


async def test_the_bytes_live_as_long_as_any_upload_refers_to_them(services: Services) -> None:
    content = pattern(MIB + 1)
    batch = await services.open()
    first, second = await services.add(batch, content, content)
    await services.uploads.delete(OWNER, first.id)
    await services.sweeper.remove_abandoned()
    assert await services.content(second.id) == content
    await services.uploads.delete(OWNER, second.id)
    assert await services.sweeper.remove_abandoned() >= 1
    assert list(services.store.list()) == []


async def test_bytes_that_the_sweeper_takes_meanwhile_are_stored_again(services: Services) -> None:
    """The object goes between the look and the lock: the row is gone, and the files are stored like any other."""
    content = pattern(MIB + 1)
    batch, other = await services.open(), await services.open()
    (first,) = await services.add(batch, content)
    await services.uploads.delete(OWNER, first.id)
    # Found as held, because the row that refers to it comes back for the moment of the look.
    async with holding(services.dsn, f"SELECT FROM upload_batches WHERE id = '{other.id}' FOR UPDATE") as holder:
        (kept,) = await services.add(batch, content)
        adding = asyncio.create_task(services.add(other, content, b"beside"))
        await someone_waiting(holder)
        await services.uploads.delete(OWNER, kept.id)
        assert await services.sweeper.remove_abandoned() >= 1
    second, beside = await adding
    assert await services.content(second.id) == content
    assert await services.content(beside.id) == b"beside"
    assert await services.counted_wrong() == []


async def test_the_sweeper_waits_for_whoever_refers_to_what_it_takes(services: Services) -> None:
    content = pattern(MIB + 1)
    batch = await services.open()
    (first,) = await services.add(batch, content)
    hold = f"SELECT FROM objects WHERE id = '{first.object_id}' FOR KEY SHARE"
    async with holding(services.dsn, hold) as holder:
        await services.uploads.delete(OWNER, first.id)
        sweeping = asyncio.create_task(services.sweeper.remove_abandoned())
        await someone_waiting(holder)
        await holder.execute(
            "INSERT INTO uploads (user_id, filename, status, size_bytes, received_bytes, sha256, object_id,"
            " object_offset, queued_at) VALUES ($1, 'x', 'pending', $2, $2, $3, $4, 0, now())",
            OWNER,
            len(content),
            hashlib.sha256(content).digest(),
            first.object_id,
        )
        await holder.execute("COMMIT")
        await holder.execute("BEGIN")
        await sweeping
    row = await services.value("SELECT id FROM uploads")
    assert await services.content(row) == content  # type: ignore[arg-type]  # an id


async def test_a_resumed_file_that_is_here_already_refers_to_it(services: Services) -> None:
    content = pattern(3 * MIB)
    (first,) = await services.add(await services.open(), content)
    upload = await declare(services, len(content))
    for offset in range(0, len(content), MIB):
        piece = body(content[offset : offset + MIB])
        after = await services.resumable.append(OWNER, upload.id, offset=offset, body=piece)
    assert (after.status, after.object_id) == (UploadStatus.PENDING, first.object_id)
    assert len(list(services.store.list())) == 1
    assert await services.content(upload.id) == content


async def test_a_manifest_learns_what_is_here_of_ones_own_only(services: Services) -> None:
    content = pattern(5000)
    await services.add(await services.open(), content)
    for owner, action in ((OWNER, Action.HAVE), (STRANGER, Action.UPLOAD)):
        batch = await services.open(owner=owner)
        after, (declared,) = await services.manifests.declare(owner, batch.id, [entry("x", 5000, of=content)])
        assert declared.action is action
        assert after.pending_uploads == (action is Action.HAVE)
    assert await services.counted_wrong() == []


async def test_what_expires_fails_and_lets_its_batch_finish(database_url: str, tmp_path: Path) -> None:
    moment = [later(0)]
    async with serving(database_url, tmp_path / "objects", clock=lambda: moment[0]) as services:
        batch = await services.open()
        (stored,) = await services.add(batch, b"stored")
        begun = await declare(services, 2 * MIB, ref="begun", batch=batch)
        await declare(services, 100, ref="nothing", batch=batch)
        await services.resumable.append(OWNER, begun.id, offset=0, body=body(pattern(MIB)))
        part = await services.manifests.declare_part(OWNER, entry("part", 100, partial=True))
        await services.resumable.append(OWNER, part.id, offset=0, body=body(bytes(100)))
        await services.batches.seal(OWNER, batch.id)
        assert await services.sweeper.expire_uploads() == 0
        moment[0] = later(2 * 24 * 3600)
        assert await services.sweeper.expire_uploads() == 3
        assert await services.sweeper.expire_uploads() == 0
        await services.pipeline.process([stored.id])
        after = await services.batches.get(OWNER, batch.id)
        assert (after.status, after.successful_uploads, after.failed_uploads) == ("completed", 1, 2)
        failed = await services.uploads.get(OWNER, begun.id)
        assert failed.error
        assert (failed.error.code, failed.received_bytes) == ("upload-expired", 0)
        assert await services.counted_wrong() == []
        await services.sweeper.remove_abandoned()
        assert list(services.store.list()) == [stored.object_id]
