"""Who is let in: by keys in a real database, looked up once for many, and known for a moment only."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from app.auth import command
from app.auth.access import Access
from app.auth.batch_tokens import BatchTokens
from app.auth.issuers import Issuers
from app.auth.keys import KeyService
from app.db.pool import Database
from app.domain.access import ANYBODY, AccessScope, CredentialKind
from app.domain.errors import DatabaseUnavailableError, UnauthorizedError
from app.domain.ids import LOCAL_OWNER, Clock, new_id, utc_now
from app.settings import load_settings
from tests.support.services import OWNER

on_18 = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)
SCOPES = (AccessScope.READ, AccessScope.WRITE)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url, size=4)
    yield database
    await database.close()


def service(database: Database) -> KeyService:
    return KeyService(database, clock=utc_now, new_id=new_id)


def access(
    database: Database, *, anonymous: bool = False, until_configured: bool = False, clock: Clock = utc_now
) -> Access:
    tokens = BatchTokens(bytes(32), clock=clock, new_id=new_id)
    return Access(database, tokens, Issuers([]), anonymous=anonymous, until_configured=until_configured, clock=clock)


async def test_a_key_says_who_calls(database: Database) -> None:
    key, secret = await service(database).create(OWNER, "x", SCOPES, None)
    caller = await access(database).admit(secret)
    assert (caller.owner, caller.scopes, caller.kind) == (OWNER, frozenset(SCOPES), CredentialKind.KEY)
    assert caller.credential == str(key.id)
    assert caller.batch_id is None


@on_18
async def test_a_credential_is_known_for_a_moment_and_one_that_does_not_hold_never(database: Database) -> None:
    keys = service(database)
    key, secret = await keys.create(OWNER, "x", SCOPES, None)
    warm, cold = access(database), access(database)
    await warm.admit(secret)
    await keys.revoke(key.id)
    assert (await warm.admit(secret)).owner == OWNER
    with pytest.raises(UnauthorizedError, match="revoked"):
        await cold.admit(secret)
    later, unknown = await keys.create(OWNER, "y", SCOPES, None)
    assert (await cold.admit(unknown)).credential == str(later.id)


@on_18
async def test_a_key_is_not_known_beyond_its_own_end(database: Database) -> None:
    now = utc_now()
    _, secret = await service(database).create(OWNER, "x", SCOPES, now + timedelta(hours=1))
    mine = access(database, clock=lambda: now)
    now += timedelta(hours=1, microseconds=-1)
    await mine.admit(secret)
    now += timedelta(microseconds=1)
    with pytest.raises(UnauthorizedError, match="expired"):
        await mine.admit(secret)


@on_18
async def test_many_at_once_are_answered_by_one_look(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    _, secret = await service(database).create(OWNER, "x", SCOPES, None)
    looks = 0
    lend = database.connection

    def counted() -> object:
        nonlocal looks
        looks += 1
        return lend()

    monkeypatch.setattr(database, "connection", counted)
    mine = access(database)
    callers = await asyncio.gather(*(mine.admit(secret) for _ in range(500)))
    assert {caller.owner for caller in callers} == {OWNER}
    assert looks == 1
    refusals = await asyncio.gather(*(mine.admit("blk_no") for _ in range(500)), return_exceptions=True)
    assert {type(refusal) for refusal in refusals} == {UnauthorizedError}
    assert looks == 2


@on_18
async def test_one_who_stops_waiting_does_not_stop_the_others(database: Database) -> None:
    _, secret = await service(database).create(OWNER, "x", SCOPES, None)
    mine = access(database)
    first, second = (asyncio.create_task(mine.admit(secret)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).owner == OWNER


@on_18
async def test_strangers_are_let_in_until_there_is_a_key(database: Database) -> None:
    mine, guarded, open_to_all = (
        access(database, until_configured=True),
        access(database),
        access(database, anonymous=True),
    )
    await mine.look()
    assert await mine.admit(None) is ANYBODY
    with pytest.raises(UnauthorizedError):
        await guarded.admit(None)
    key, _ = await service(database).create(OWNER, "x", SCOPES, None)
    await service(database).revoke(key.id)
    await mine.look()
    await open_to_all.look()
    with pytest.raises(UnauthorizedError):
        await mine.admit(None)
    assert await open_to_all.admit(None) is ANYBODY


@on_18
async def test_a_lost_database_is_no_refusal(database: Database) -> None:
    _, secret = await service(database).create(OWNER, "x", SCOPES, None)
    mine = access(database)
    await database.close()
    with pytest.raises(DatabaseUnavailableError):
        await mine.admit(secret)


@on_18
async def test_uses_are_written_down_when_it_ends_and_never_go_back(database: Database) -> None:
    keys = service(database)
    _, secret = await keys.create(OWNER, "x", SCOPES, None)
    uses: list[datetime | None] = []
    for clock in (utc_now, lambda: utc_now() - timedelta(days=1)):
        mine = access(database, clock=clock)
        await mine.admit(secret)
        stop = asyncio.Event()
        loop = asyncio.create_task(mine.run(stop))
        stop.set()
        await loop
        uses += [key.last_used_at for key in await keys.list_all()]
    assert uses[0] is not None
    assert uses == [uses[0]] * 2


@on_18
@pytest.mark.parametrize(
    ("host", "anonymous", "has_key", "may"),
    [
        ("127.0.0.1", False, False, True),
        ("::1", False, False, True),
        ("localhost", False, False, True),
        ("0.0.0.0", False, False, False),
        ("::", False, False, False),
        ("example.org", False, False, False),
        ("0.0.0.0", False, True, True),
        ("0.0.0.0", True, False, True),
    ],
)
async def test_what_may_be_listened_on(
    database: Database, database_url: str, *, host: str, anonymous: bool, has_key: bool, may: bool
) -> None:
    if has_key:
        await service(database).create(LOCAL_OWNER, "x", SCOPES, None)
    settings = load_settings(host=host, allow_anonymous=anonymous)
    assert await command.may_serve(settings, database_url) is may
