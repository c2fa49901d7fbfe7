"""The feed on a real database: who watches hears of everything, and the database is asked little."""

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from app.domain.batch import advance, tally
from app.domain.errors import DatabaseUnavailableError, NotFoundError
from app.domain.ids import new_id, utc_now
from app.domain.upload import UploadStatus
from app.progress.changes import STEP_UPLOADS, Changes
from app.progress.position import Position
from app.progress.snapshot import Change, Snapshot
from app.repositories.unit_of_work import unit_of_work
from tests.support.postgres import execute
from tests.support.progress import Progress, progressing
from tests.support.services import OWNER, STRANGER
from tests.support.values import make_upload

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)


@pytest.fixture
async def progress(database_url: str) -> AsyncIterator[Progress]:
    async with progressing(database_url) as running:
        yield running


async def follow(
    progress: Progress, snapshot: Snapshot, *, pause: float = 0, since: Position | None = None
) -> list[Change]:
    """Follow to the end, as fast as `pause` lets it."""
    steps = []
    async for step in progress.feed.follow(snapshot, since, uploads=True):
        if step:
            steps.append(step)
        await asyncio.sleep(pause)
    return steps


async def add_uploads(progress: Progress, batch_id: UUID, count: int) -> list[UUID]:
    """Insert refused uploads, as one change."""
    async with unit_of_work(progress.writer) as uow:
        batch = (await uow.batches.lock([batch_id]))[batch_id]
        made = [
            make_upload(
                UploadStatus.FAILED,
                id=new_id(),
                user_id=OWNER,
                batch_id=batch_id,
                batch_version=batch.version + 1,
                received_bytes=0,
                sha256=None,
                object_id=None,
                object_offset=None,
            )
            for _ in range(count)
        ]
        moved = advance(batch, tally(made), now=utc_now())
        assert await uow.arrivals.keep({batch_id: batch}, [moved], made, [], [], alone=False)
    return [upload.id for upload in made]


async def watched(progress: Progress, count: int) -> None:
    async with asyncio.timeout(10):
        while progress.feed.watchers != count:
            await asyncio.sleep(0.01)


async def test_reads_that_come_while_one_runs_share_the_next(progress: Progress) -> None:
    batches = [await progress.open() for _ in range(5)]
    before = progress.database.reads
    found = await asyncio.gather(*(progress.reader.get(OWNER, one.batch.id) for one in batches * 200))
    assert [one.version for one in found] == [2] * 1000
    assert progress.database.reads - before <= 2
    of_first = {id(one) for one in found if one.batch.id == batches[0].batch.id}
    assert len(of_first) <= 2, "what is read once is one object, to be encoded once"


async def test_a_read_is_never_older_than_its_own_arrival(progress: Progress) -> None:
    snapshot = await progress.open()
    progress.database.late_seconds = 0.3
    running = asyncio.create_task(progress.reader.find(snapshot.batch.id))
    await asyncio.sleep(0.1)  # it has been answered, and the answer is on its way
    acknowledged = await progress.move(snapshot.batch.id)
    later = asyncio.create_task(progress.reader.get(OWNER, snapshot.batch.id))
    earlier = await running
    assert earlier
    assert earlier.version == snapshot.version
    assert (await later).version == acknowledged.version


async def test_a_reader_that_leaves_does_not_harm_the_others(progress: Progress) -> None:
    snapshot = await progress.open()
    reads = [asyncio.create_task(progress.reader.get(OWNER, snapshot.batch.id)) for _ in range(10)]
    await asyncio.sleep(0)
    for read in reads[::2]:
        read.cancel()
    assert [one.version for one in await asyncio.gather(*reads[1::2])] == [2] * 5


async def test_foreign_and_unknown_batches_are_not_found(progress: Progress) -> None:
    snapshot = await progress.open()
    for owner, batch_id in ((STRANGER, snapshot.batch.id), (OWNER, new_id())):
        with pytest.raises(NotFoundError):
            await progress.reader.get(owner, batch_id)


async def test_a_burst_is_coalesced_and_read_once_for_all_followers(progress: Progress) -> None:
    snapshot = await progress.open()
    following = [asyncio.create_task(follow(progress, snapshot)) for _ in range(50)]
    await watched(progress, 50)
    await asyncio.sleep(0.3)
    before, began = progress.database.reads, time.monotonic()
    moves = 0
    while time.monotonic() - began < 1.5:
        await progress.move(snapshot.batch.id)
        moves += 1
    last = await progress.move(snapshot.batch.id, seal=True)
    all_steps = await asyncio.gather(*following)
    took = time.monotonic() - began
    looks = took / 0.1 + 2
    assert moves > 2 * looks
    assert progress.database.reads - before <= 2 * looks, "each look reads the batch and the changed uploads"
    for steps in all_steps:
        versions = [step.end.version for step in steps]
        assert versions == sorted(set(versions))
        assert versions[-1] == last.version
        assert len(steps) <= looks + 1
        assert steps[-1].snapshot
        assert steps[-1].snapshot.is_final
    assert len({id(steps[-1]) for steps in all_steps}) == 1, "those in step get the same step, which is encoded once"
    await watched(progress, 0)


async def test_nothing_is_read_for_a_batch_that_nobody_watches(progress: Progress) -> None:
    snapshot, other = await progress.open(), await progress.open()
    following = asyncio.create_task(follow(progress, snapshot))
    await watched(progress, 1)
    await asyncio.sleep(0.3)
    before = progress.database.reads
    for _ in range(20):
        await progress.move(other.batch.id)
    await asyncio.sleep(0.3)
    assert progress.database.reads == before
    await progress.move(snapshot.batch.id, seal=True)
    await following
    await progress.move(snapshot.batch.id)
    await asyncio.sleep(0.2)
    after = progress.database.reads
    await progress.move(snapshot.batch.id)
    await asyncio.sleep(0.2)
    assert progress.database.reads == after


async def test_a_slow_follower_skips_what_was_between_and_gets_the_end(progress: Progress) -> None:
    snapshot = await progress.open()
    slow = asyncio.create_task(follow(progress, snapshot, pause=0.8))
    fast = asyncio.create_task(follow(progress, snapshot))
    await watched(progress, 2)
    for _ in range(15):
        await progress.move(snapshot.batch.id)
        await asyncio.sleep(0.1)
    last = await progress.move(snapshot.batch.id, seal=True)
    slow_steps, fast_steps = await asyncio.gather(slow, fast)
    assert len(slow_steps) < len(fast_steps) / 2
    assert slow_steps[-1].end == fast_steps[-1].end == last.position


async def test_a_change_of_many_uploads_comes_in_steps_that_miss_none(progress: Progress) -> None:
    snapshot = await progress.open()
    following = asyncio.create_task(follow(progress, snapshot))
    await watched(progress, 1)
    ids = await add_uploads(progress, snapshot.batch.id, STEP_UPLOADS * 2 + 5)
    await progress.move(snapshot.batch.id, seal=True)
    steps = await following
    assert [upload.id for step in steps for upload in step.uploads] == sorted(ids)
    assert max(len(step.uploads) for step in steps) == STEP_UPLOADS
    middle = next(step.end for step in steps if step.snapshot is None)
    rest = await follow(progress, await progress.reader.get(OWNER, snapshot.batch.id), since=middle)
    assert [upload.id for step in rest for upload in step.uploads] == sorted(ids)[STEP_UPLOADS:]


async def test_followers_of_the_same_past_share_its_reads(progress: Progress) -> None:
    snapshot = await progress.open()
    await add_uploads(progress, snapshot.batch.id, STEP_UPLOADS * 5)
    final = await progress.move(snapshot.batch.id, seal=True)
    before = progress.database.reads
    everything = await asyncio.gather(*(follow(progress, final, since=Position(0)) for _ in range(100)))
    assert {sum(len(step.uploads) for step in steps) for steps in everything} == {STEP_UPLOADS * 5}
    assert progress.database.reads - before <= 10
    before = progress.database.reads
    await follow(progress, final, since=Position(0))
    assert progress.database.reads - before <= 1, "who comes a little later finds the steps still there"


async def test_a_wait_ends_with_the_change_and_not_before(progress: Progress) -> None:
    snapshot = await progress.open()
    waiting = asyncio.create_task(progress.feed.wait(snapshot, seconds=30))
    await watched(progress, 1)
    await asyncio.sleep(0.3)
    assert not waiting.done()
    moved = await progress.move(snapshot.batch.id)
    assert (await asyncio.wait_for(waiting, 5)).version == moved.version
    await watched(progress, 0)


async def test_a_wait_that_starts_late_does_not_miss_what_it_came_too_late_for(progress: Progress) -> None:
    snapshot = await progress.open()
    moved = await progress.move(snapshot.batch.id)
    await asyncio.sleep(0.2)  # the notification finds nobody who watches
    found = await asyncio.wait_for(progress.feed.wait(snapshot, seconds=30), 5)
    assert found.version == moved.version


async def test_a_wait_runs_out_with_the_state_as_it_is(progress: Progress) -> None:
    snapshot = await progress.open()
    began = time.monotonic()
    assert (await progress.feed.wait(snapshot, seconds=0.3)).version == snapshot.version
    assert 0.3 <= time.monotonic() - began < 2


async def test_a_batch_that_is_deleted_ends_waits_and_streams(progress: Progress) -> None:
    snapshot = await progress.open()
    following = asyncio.create_task(follow(progress, snapshot))
    waiting = asyncio.create_task(progress.feed.wait(snapshot, seconds=30))
    await watched(progress, 2)
    await asyncio.sleep(0.3)
    before = progress.database.reads
    await progress.delete(snapshot.batch.id)
    assert [step.end for step in await asyncio.wait_for(following, 5)] == [snapshot.position]
    with pytest.raises(NotFoundError):
        await asyncio.wait_for(waiting, 5)
    await asyncio.sleep(0.5)
    assert progress.database.reads - before == 1, "a batch that is gone is not looked for again and again"


async def test_closing_ends_all_waiting_now_and_later(progress: Progress) -> None:
    snapshot = await progress.open()
    following = asyncio.create_task(follow(progress, snapshot))
    waiting = asyncio.create_task(progress.feed.wait(snapshot, seconds=30))
    await watched(progress, 2)
    progress.feed.close()
    assert len(await asyncio.wait_for(following, 1)) == 1
    assert (await asyncio.wait_for(waiting, 1)).version == snapshot.version
    assert (await asyncio.wait_for(progress.feed.wait(snapshot, seconds=30), 1)).version == snapshot.version


async def test_what_was_missed_while_nobody_listened_is_found(progress: Progress, database_url: str) -> None:
    snapshot = await progress.open()
    waiting = [asyncio.create_task(progress.feed.wait(snapshot, seconds=30)) for _ in range(3)]
    await watched(progress, 3)
    await asyncio.sleep(0.3)
    # In one transaction, so that nobody hears of it: its own end takes the listener's connection away.
    execute(
        database_url,
        f"UPDATE upload_batches SET version = version + 1 WHERE id = '{snapshot.batch.id}'",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'boatload-listener'",
    )
    assert {one.version for one in await asyncio.wait_for(asyncio.gather(*waiting), 5)} == {snapshot.version + 1}


async def test_a_heartbeat_wakes_who_has_nothing_to_hear(database_url: str) -> None:
    async with progressing(database_url, heartbeat_seconds=0.1) as progress:
        snapshot = await progress.open()
        steps = progress.feed.follow(snapshot, None, uploads=False)
        assert (await anext(steps)) is not None
        assert [await asyncio.wait_for(anext(steps), 5) for _ in range(3)] == [None] * 3
        await steps.aclose()
        assert progress.feed.watchers == 0


async def test_a_step_holds_nothing_from_beyond_its_end(progress: Progress) -> None:
    snapshot = await progress.open()
    old = await add_uploads(progress, snapshot.batch.id, 3)
    known = await progress.reader.get(OWNER, snapshot.batch.id)
    await add_uploads(progress, snapshot.batch.id, 2)
    step = await Changes(progress.database).next(known, Position(0), uploads=True)
    assert [upload.id for upload in step.uploads] == old
    assert step.end == known.position


async def test_followers_outlast_a_database_that_cannot_be_read(progress: Progress) -> None:
    snapshot = await progress.open()
    ids = await add_uploads(progress, snapshot.batch.id, 3)
    known = await progress.reader.get(OWNER, snapshot.batch.id)
    behind = asyncio.create_task(follow(progress, known, since=Position(0)))
    in_step = asyncio.create_task(follow(progress, known))
    waiting = asyncio.create_task(progress.feed.wait(known, seconds=30))
    progress.database.is_lost = True
    await watched(progress, 3)
    last = await progress.move(snapshot.batch.id, seal=True)
    await asyncio.sleep(0.5)
    assert not behind.done()
    assert not in_step.done()
    assert not waiting.done()
    progress.database.is_lost = False
    assert (await asyncio.wait_for(waiting, 10)).version == last.version
    assert (await asyncio.wait_for(in_step, 10))[-1].end == last.position
    steps = await asyncio.wait_for(behind, 10)
    assert [upload.id for step in steps for upload in step.uploads] == ids
    assert steps[-1].end == last.position


async def test_a_reader_without_a_database_says_so(database_url: str) -> None:
    async with progressing(database_url) as progress:
        snapshot = await progress.open()
        await progress.database.close()
        with pytest.raises(DatabaseUnavailableError):
            await progress.reader.find(snapshot.batch.id)
