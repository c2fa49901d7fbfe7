"""The keys of an issuer: known for a while, and asked for again without a long wait for what is here."""

import asyncio
from collections.abc import Iterator

import pytest

from app.auth.jwks import FRESH_SECONDS, PAUSE_SECONDS, STALE_SECONDS, KeySet
from app.domain.errors import IssuerUnavailableError
from tests.support.issuer import Issuer, issuing, new_key


class Clock:
    """Seconds, as far as a test moves them."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuing() as made:
        yield made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(issuer: Issuer, clock: Clock) -> KeySet:
    return KeySet(issuer.url, "RS", now=clock)


async def test_an_issuer_that_hangs_keeps_nobody_waiting_whose_key_is_known(
    issuer: Issuer, clock: Clock, keys: KeySet
) -> None:
    first = await keys.find("one")
    issuer.answers.clear()
    clock.now = FRESH_SECONDS + 1
    assert await asyncio.wait_for(keys.find("one"), 1) is first
    unknown = asyncio.create_task(keys.find("two"))
    await asyncio.sleep(0.3)
    assert not unknown.done(), "nobody can tell yet"
    assert await asyncio.wait_for(keys.find("one"), 1) is first
    issuer.keys["two"] = new_key()
    issuer.answers.set()
    assert await asyncio.wait_for(unknown, 5) is not None
    assert issuer.asked == 2


async def test_a_key_that_was_withdrawn_is_not_used_once_it_is_old(issuer: Issuer, clock: Clock, keys: KeySet) -> None:
    assert await keys.find("one")
    issuer.keys = {"two": new_key()}
    clock.now = FRESH_SECONDS + 1
    assert await keys.find("one") is None
    assert await keys.find("two")


async def test_old_keys_are_used_for_an_hour_and_no_longer(issuer: Issuer, clock: Clock, keys: KeySet) -> None:
    assert await keys.find("one")
    issuer.is_down = True
    for clock.now in (FRESH_SECONDS + 1, FRESH_SECONDS + PAUSE_SECONDS + 2, STALE_SECONDS):
        assert await keys.find("one")
    assert issuer.asked == 4
    clock.now = STALE_SECONDS + PAUSE_SECONDS + 1
    with pytest.raises(IssuerUnavailableError):
        await keys.find("one")
    issuer.is_down = False
    clock.now += PAUSE_SECONDS + 1
    assert await keys.find("one")
