"""What keeps a request to one effect: owners, expiry, rivals in other processes, refusals; and how `push` uses it."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest

from app.api.multipart import MultipartBody
from app.domain.errors import (
    BatchClosedError,
    IdempotencyKeyInFlightError,
    IdempotencyKeyReusedError,
    NotFoundError,
    StorageFullError,
)
from app.domain.idempotency import Answer, RequestKey
from app.domain.ids import new_id
from app.domain.quota import Quota
from app.ingest.idempotency import Idempotency
from app.ingest.receive import Receipt, Target
from tests.support.services import (
    BOUNDARY,
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

NOW: Final = datetime(2026, 3, 1, tzinfo=UTC)
KEY: Final = RequestKey(OWNER, "k", bytes(32))
THEIRS: Final = KEY._replace(owner=STRANGER)
OTHER: Final = KEY._replace(fingerprint=bytes(31) + b"1")
CONTENTS: Final = [b"1", b"2", pattern(2 * MIB), b"4", b"5"]
BODY: Final = multipart(*CONTENTS)


class Watch:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
async def services(database_url: str, tmp_path: Path, watch: Watch) -> AsyncIterator[Services]:
    async with serving(database_url, tmp_path / "objects", clock=watch) as services:
        yield services
        assert services.budget.free_bytes == services.budget.total_bytes
        assert await services.counted_wrong() == []


def process(services: Services, watch: Watch) -> Idempotency:
    """What one process knows of keys."""
    return Idempotency(services.database, lifetime=timedelta(hours=1), clock=watch, new_id=new_id)


def opening(services: Services, owner: UUID = OWNER) -> Callable[[], Awaitable[Answer]]:
    async def work() -> Answer:
        batch = await services.open(owner=owner)
        return Answer(201, {"location": str(batch.id)}, b"opened")

    return work


async def receive(
    services: Services, keys: Idempotency, body: bytes, key: RequestKey = KEY, batch_id: UUID | None = None
) -> Receipt:
    return await receive_chunks(services, keys, chunks(body), key, batch_id)


async def receive_chunks(
    services: Services, keys: Idempotency, body: AsyncIterator[bytes], key: RequestKey, batch_id: UUID | None
) -> Receipt:
    async def find_batch(_field: str | None) -> UUID | None:
        return batch_id

    async with keys.keeping(key, lambda batch: str(batch.total_uploads).encode()) as keyed:
        return await services.receiver.receive(
            body,
            lambda reception: MultipartBody(BOUNDARY, reception, max_parts=100),
            Target(key.owner, find_batch, keyed=keyed),
        )


async def batches(services: Services) -> object:
    return await services.value("SELECT count(*) FROM upload_batches")


async def uploads(services: Services) -> object:
    return await services.value("SELECT count(*) FROM uploads")


async def keys_kept(services: Services) -> object:
    return await services.value("SELECT count(*) FROM idempotency_keys")


async def test_the_answer_is_kept_with_the_effect_and_said_again(services: Services, watch: Watch) -> None:
    first = await process(services, watch).once(KEY, opening(services))
    again = await process(services, watch).once(KEY, opening(services))
    assert again == first
    assert (await batches(services), await keys_kept(services)) == (1, 1)


async def test_owners_do_not_share_keys(services: Services, watch: Watch) -> None:
    keys = process(services, watch)
    mine = await keys.once(KEY, opening(services))
    theirs = await keys.once(THEIRS, opening(services, STRANGER))
    assert mine != theirs
    assert await batches(services) == 2

    sent = KEY._replace(key="multipart")
    assert (await receive(services, keys, BODY, sent)).error is None
    assert (await receive(services, keys, multipart(b"other"), sent._replace(owner=STRANGER))).error is None
    assert await batches(services) == 4


async def test_a_key_of_another_request_is_refused_whatever_kind_it_is(services: Services, watch: Watch) -> None:
    keys = process(services, watch)
    await keys.once(KEY, opening(services))
    await receive(services, keys, BODY, KEY._replace(key="multipart"))
    for known in ("k", "multipart"):
        for fingerprint in (OTHER.fingerprint, KEY.fingerprint):
            if (known, fingerprint) != ("k", KEY.fingerprint):
                with pytest.raises(IdempotencyKeyReusedError):
                    await keys.once(RequestKey(OWNER, known, fingerprint), opening(services))
            if (known, fingerprint) != ("multipart", KEY.fingerprint):
                with pytest.raises(IdempotencyKeyReusedError):
                    await receive(services, keys, BODY, RequestKey(OWNER, known, fingerprint))
    assert await batches(services) == 2


async def test_what_fails_leaves_neither_effect_nor_key(services: Services, watch: Watch) -> None:
    keys = process(services, watch)

    async def failing() -> Answer:
        await opening(services)()
        raise NotFoundError

    with pytest.raises(NotFoundError):
        await keys.once(KEY, failing)
    assert (await batches(services), await keys_kept(services)) == (0, 0)
    await keys.once(OTHER, opening(services))
    assert await batches(services) == 1


async def test_a_key_that_has_expired_is_as_good_as_new_and_is_swept(services: Services, watch: Watch) -> None:
    keys = process(services, watch)
    await keys.once(KEY, opening(services))
    await receive(services, keys, BODY, KEY._replace(key="multipart"))
    watch.now += timedelta(minutes=59)
    assert await services.sweeper.forget_keys() == 0
    watch.now += timedelta(minutes=1)
    await keys.once(OTHER, opening(services))
    assert (await receive(services, keys, multipart(b"x"), KEY._replace(key="multipart"))).error is None
    assert await batches(services) == 4
    watch.now += timedelta(hours=1)
    assert await services.sweeper.forget_keys() == 2
    assert await keys_kept(services) == 0
    assert await services.value("SELECT count(*) FROM idempotency_runs") == 0
    assert await batches(services) == 4


async def test_of_two_processes_one_has_its_effect(services: Services, watch: Watch) -> None:
    first, second = process(services, watch), process(services, watch)

    async def overtaken() -> Answer:
        answer = await opening(services)()
        async with asyncio.timeout(20):  # in a task of its own, because this one's is in the transaction
            await contextvars.Context().run(asyncio.create_task, second.once(KEY, opening(services)))
        return answer

    with pytest.raises(IdempotencyKeyInFlightError):
        await first.once(KEY, overtaken)
    assert (await batches(services), await keys_kept(services)) == (1, 1)
    assert (await first.once(KEY, opening(services))).body == b"opened"
    assert await batches(services) == 1


async def test_two_processes_that_begin_a_multipart_request_at_once_open_one_batch(
    services: Services, watch: Watch
) -> None:
    bystander = services.receive(chunks(BODY))
    receipts = await asyncio.gather(*(receive(services, process(services, watch), BODY) for _ in range(5)), bystander)
    errors = [type(receipt.error) for receipt in receipts]
    assert errors.count(type(None)) >= 2
    assert set(errors) <= {type(None), IdempotencyKeyInFlightError}
    assert receipts[-1].error is None
    assert (await batches(services), await uploads(services)) == (2, 2 * len(CONTENTS))
    assert (await receive(services, process(services, watch), BODY)).error is None
    assert (await batches(services), await uploads(services)) == (2, 2 * len(CONTENTS))


async def test_a_process_that_was_overtaken_adds_nothing(services: Services, watch: Watch) -> None:
    overtaken, opened = asyncio.Event(), await services.open()

    async def halting() -> AsyncIterator[bytes]:
        yield BODY[: BODY.index(b"Content-Disposition", 300)]
        async with asyncio.timeout(20):
            while await uploads(services) == 0:
                await asyncio.sleep(0.01)
            await overtaken.wait()
        yield BODY[BODY.index(b"Content-Disposition", 300) :]

    sending = asyncio.create_task(receive_chunks(services, process(services, watch), halting(), KEY, opened.id))
    async with asyncio.timeout(20):
        while await uploads(services) == 0:
            await asyncio.sleep(0.01)
    assert (await receive(services, process(services, watch), BODY, KEY, opened.id)).error is None
    overtaken.set()
    receipt = await sending
    assert type(receipt.error) is IdempotencyKeyInFlightError
    assert (await batches(services), await uploads(services)) == (1, len(CONTENTS))


async def test_what_is_kept_is_not_written_again(database_url: str, tmp_path: Path, watch: Watch) -> None:
    store = FlakyStore(tmp_path / "objects")
    async with serving(database_url, tmp_path / "objects", store=store, clock=watch) as services:
        keys = process(services, watch)
        full = iter([StorageFullError()])

        def refuse_the_pack(call: str) -> None:
            if call == "sync" and (error := next(full, None)):
                raise error

        store.before = refuse_the_pack
        receipt = await receive(services, keys, BODY)
        assert type(receipt.error) is StorageFullError
        before = await uploads(services)
        calls: list[str] = []
        store.before = calls.append
        assert (await receive(services, keys, BODY)).error is None
        assert await uploads(services) == len(CONTENTS)
        assert calls.count("create") <= 2
        assert before == 0 or calls
        calls.clear()
        assert (await receive(services, keys, BODY)).error is None
        assert calls == []
        assert await services.counted_wrong() == []


async def test_a_part_without_room_is_the_same_part_when_it_is_sent_again(services: Services, watch: Watch) -> None:
    await services.quotas.set(OWNER, Quota(files=2))
    keys = process(services, watch)
    first = await receive(services, keys, BODY)
    assert [upload.error is None for upload in first.outcomes] == [True, True, False, False, False]
    await services.quotas.set(OWNER, Quota(files=200))
    again = await receive(services, keys, BODY)
    assert (again.error, again.outcomes, await uploads(services)) == (None, [], len(CONTENTS))


async def test_a_batch_that_closes_in_between_keeps_what_it_has(services: Services, watch: Watch) -> None:
    keys, batch = process(services, watch), await services.open()
    cut = BODY.index(b"Content-Disposition", 300)
    first = await receive(services, keys, BODY[:cut], KEY, batch.id)
    kept = len(first.outcomes)
    assert 0 < kept < len(CONTENTS)
    await services.batches.seal(OWNER, batch.id)
    for _ in range(2):
        again = await receive(services, keys, BODY, KEY, batch.id)
        assert type(again.error) is BatchClosedError
        assert await uploads(services) == kept
