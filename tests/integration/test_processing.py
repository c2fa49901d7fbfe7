"""Processing on real rows: results, thumbnails and errors as they are kept, and what a batch chose."""

import asyncio
import io
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from PIL import Image

from app.domain.batch import BatchStatus
from app.domain.errors import NotFoundError, NoThumbnailError, StorageFullError
from app.domain.processing_errors import UnknownProcessorError
from app.domain.upload import Upload, UploadStatus
from app.storage.local import LocalStore
from tests.support import plug_ins
from tests.support.breaking_store import BreakingStore
from tests.support.images import fifty_gigapixels, is_upright, picture, stored
from tests.support.services import OWNER, STRANGER, Services, pattern, serving

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)

EXPIRE = "UPDATE uploads SET lease_expires_at = now() - interval '1 second' WHERE status = 'processing'"
AGAIN = "UPDATE uploads SET status = 'pending', completed_at = NULL, error = NULL WHERE id = $1"
ORDERS = {"processors": ("inspect", "image", "misbehave"), "seconds": 3.0, "memory_bytes": 1 << 30}


@pytest.fixture(autouse=True)
def plug_ins_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "plug-ins"
    folder.mkdir()
    plug_ins.install(folder)
    plug_ins.show(folder, monkeypatch)


@pytest.fixture
async def services(database_url: str, tmp_path: Path) -> AsyncIterator[Services]:
    async with serving(database_url, tmp_path / "objects", min_age=timedelta(0)) as services:
        yield services
        assert await services.counted_wrong() == []


async def processed(services: Services, *contents: bytes) -> list[Upload]:
    """Uploads of a sealed batch, processed as often as it takes."""
    batch = await services.open()
    uploads = await services.add(batch, *contents)
    await services.batches.seal(OWNER, batch.id)
    found = uploads
    while pending := [upload.id for upload in found if upload.status is UploadStatus.PENDING]:
        await services.pipeline.process(pending)
        found = [await services.uploads.get(OWNER, upload.id) for upload in uploads]
    return found


async def test_what_was_found_is_kept_and_the_thumbnail_can_be_had(services: Services) -> None:
    photo, big, words = await processed(
        services, stored(picture(600, 400), "JPEG", 6), stored(picture(3000, 2000), "TIFF"), b"words"
    )
    assert (photo.detected_type, photo.width, photo.height) == ("image/jpeg", 600, 400)
    assert photo.metadata == {"image": {"format": "JPEG", "mode": "RGB", "frames": 1}}
    assert (big.width, big.height, big.object_offset) == (3000, 2000, 0)
    assert (words.detected_type, words.width, words.metadata) == ("text/plain", None, {})
    tags = set()
    for upload in (photo, big):
        thumbnail = await services.uploads.find_thumbnail(OWNER, upload.id)
        data = await thumbnail.read()
        assert len(data) == upload.thumbnail_bytes
        assert is_upright(data)
        assert Image.open(io.BytesIO(data), formats=["WEBP"]).size == (512, 341)
        tags.add(thumbnail.tag)
        with pytest.raises(NotFoundError):
            await services.uploads.find_thumbnail(STRANGER, upload.id)
    assert len(tags) == 2
    assert photo.thumbnail_object_id == big.thumbnail_object_id != photo.object_id
    with pytest.raises(NoThumbnailError):
        await services.uploads.find_thumbnail(OWNER, words.id)


async def test_the_sweeper_leaves_thumbnails_alone_until_nobody_has_them(services: Services) -> None:
    first, second = await processed(services, *[stored(picture(300, 200), "PNG")] * 2)
    pack = first.thumbnail_object_id
    assert pack
    await services.thumbnails.close()  # nobody holds the pack any more: only its rows keep it
    assert await services.sweeper.remove_abandoned() == 0
    await services.uploads.delete(OWNER, first.id)
    assert await services.sweeper.remove_abandoned() == 0
    assert is_upright(await (await services.uploads.find_thumbnail(OWNER, second.id)).read())
    await services.uploads.delete(OWNER, second.id)
    await services.sweeper.remove_abandoned()
    assert pack not in set(services.store.list())
    assert await services.value("SELECT count(*) FROM objects WHERE id = $1", pack) == 0


async def test_a_pack_of_thumbnails_in_use_is_not_swept_even_without_rows(services: Services) -> None:
    upload_id = (await processed(services, b"words"))[0].id
    async with services.thumbnails.placed({upload_id: b"a thumbnail"}) as places:
        await services.sweeper.remove_abandoned()
        assert places[upload_id].object_id in set(services.store.list())
    await services.thumbnails.close()
    await services.sweeper.remove_abandoned()
    assert places[upload_id].object_id not in set(services.store.list())


async def test_a_later_attempt_overwrites_what_an_earlier_one_found(services: Services) -> None:
    (before,) = await processed(services, stored(picture(300, 200), "PNG"))
    await services.rows("UPDATE uploads SET metadata = metadata || '{\"client\": 1}' WHERE id = $1", before.id)
    for counts in ("processed_uploads = 0, successful_uploads = 0, pending_uploads = 1",):
        await services.rows(f"UPDATE upload_batches SET {counts}, status = 'processing', completed_at = NULL")
    await services.rows(AGAIN, before.id)
    await services.pipeline.process([before.id])
    after = await services.uploads.get(OWNER, before.id)
    assert after.status is UploadStatus.COMPLETED
    assert after.metadata == {"client": 1, **before.metadata}
    assert after.thumbnail_offset != before.thumbnail_offset
    assert is_upright(await (await services.uploads.find_thumbnail(OWNER, after.id)).read())


async def test_thumbnails_of_an_attempt_that_was_overtaken_are_dead_bytes(services: Services) -> None:
    batch = await services.open()
    (upload,) = await services.add(batch, stored(picture(300, 200), "PNG"))
    async with services.thumbnails.placed({upload.id: b"somebody else's turn"}):
        working = asyncio.create_task(services.pipeline.process([upload.id]))
        while (await services.uploads.get(OWNER, upload.id)).status is not UploadStatus.PROCESSING:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        await services.batches.cancel(OWNER, batch.id)
    await working
    cancelled = await services.uploads.get(OWNER, upload.id)
    assert (cancelled.status, cancelled.thumbnail_object_id) == (UploadStatus.CANCELLED, None)
    await services.thumbnails.close()
    assert await services.sweeper.remove_abandoned() >= 1


async def test_without_room_for_its_thumbnail_an_upload_is_given_back(database_url: str, tmp_path: Path) -> None:
    local = LocalStore(tmp_path / "objects")
    local.prepare()
    store = BreakingStore(local)
    async with serving(database_url, tmp_path / "objects", store=store) as services:
        batch = await services.open()
        photo, words = await services.add(batch, stored(picture(300, 200), "PNG"), b"words")
        store.faults["create"] = StorageFullError()
        await services.pipeline.process([photo.id, words.id])
        waiting, done = [await services.uploads.get(OWNER, upload.id) for upload in (photo, words)]
        assert (waiting.status, waiting.attempts) == (UploadStatus.PENDING, 1)
        assert done.status is UploadStatus.COMPLETED
        store.faults.clear()
        await services.pipeline.process([photo.id])
        assert (await services.uploads.find_thumbnail(OWNER, photo.id)).tag
        assert await services.counted_wrong() == []


async def test_a_batch_is_processed_as_it_chose(services: Services) -> None:
    async def one(processors: list[str] | None, *, delete: bool = False) -> Upload:
        batch = await services.batches.open(
            OWNER, label=None, expected_uploads=None, metadata={}, expires_in=None, processors=processors
        )
        (upload,) = await services.add(batch, stored(picture(300, 200), "PNG"))
        if delete:
            await services.batches.delete(OWNER, batch.id, with_uploads=False)
        return upload

    uploads = [await one(["echo"]), await one([]), await one(None), await one(["echo"], delete=True)]
    await services.pipeline.process([upload.id for upload in uploads])
    echoed, untouched, usual, orphan = [await services.uploads.get(OWNER, upload.id) for upload in uploads]
    assert {one.status for one in (echoed, untouched, usual, orphan)} == {UploadStatus.COMPLETED}
    assert (echoed.detected_type, echoed.width) == ("application/x-echo", None)
    assert (untouched.detected_type, untouched.metadata) == (None, {})
    assert (usual.detected_type, usual.width) == ("image/png", 300)
    assert (orphan.detected_type, orphan.width) == ("image/png", 300), "its batch is gone"
    with pytest.raises(UnknownProcessorError, match="no processor 'ocr'"):
        await one(["inspect", "ocr"])


async def test_each_bad_file_fails_for_its_own_reason_and_the_rest_completes(database_url: str, tmp_path: Path) -> None:
    bad = {
        b"crash": "processor-crashed",
        b"loop": "processor-timeout",
        b"eat": "processor-out-of-memory",
        fifty_gigapixels(): "image-too-large",
        stored(picture(300, 200), "JPEG")[:900]: "image-unreadable",
    }
    async with serving(database_url, tmp_path / "objects", orders=ORDERS, max_attempts=2) as services:
        contents = [b"nothing %d" % number for number in range(95)]
        for number, content in enumerate(bad):
            contents.insert(7 + 19 * number, content)
        uploads = await processed(services, *contents)
        wanted = [bad.get(content) for content in contents]
        assert [upload.error.code if upload.error else None for upload in uploads] == wanted
        assert uploads[0].batch_id
        batch = await services.batches.get(OWNER, uploads[0].batch_id)
        assert (batch.status, batch.successful_uploads, batch.failed_uploads) == (BatchStatus.COMPLETED, 95, 5)
        truncated = uploads[wanted.index("image-unreadable")]
        assert truncated.detected_type == "image/jpeg", "what was found before is kept"
        assert await services.counted_wrong() == []


async def test_a_file_in_an_object_of_its_own_is_read_like_one_in_a_pack(services: Services) -> None:
    noisy = Image.effect_noise((1200, 1000), 90).convert("RGB")
    written = io.BytesIO()
    noisy.save(written, "PNG")
    photo, text = await processed(services, written.getvalue(), pattern(2 << 20))
    assert photo.received_bytes > 1 << 20
    assert (photo.width, photo.height) == (1200, 1000)
    assert text.detected_type == "application/octet-stream"
