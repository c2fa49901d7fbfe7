import asyncio
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings

from app.storage.local import LocalStore
from tests.support.receiving import BOUNDARY, Outcome, take

# A busy machine is no failure.
settings.register_profile("boatload", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("boatload")


class Take(Protocol):
    """`tests.support.receiving.take`, with a store."""

    def __call__(self, *chunks: bytes, boundary: bytes = BOUNDARY, **limits: int) -> Outcome: ...


async def quiet() -> None:
    """Let every task run until all of them wait for something."""
    for _ in range(100):
        await asyncio.sleep(0)


@pytest.fixture(scope="session")
def hashers() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "objects")
    store.prepare()
    return store


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """For tests that look at nothing but what they put in."""
    store = LocalStore(tmp_path_factory.mktemp("shared") / "objects")
    store.prepare()
    return store


@pytest.fixture(scope="session")
def taken(shared_store: LocalStore, hashers: Executor) -> Take:
    """Feed a body, given in chunks, and see what becomes of it."""
    feed = partial(take, store=shared_store, hashers=hashers)
    return lambda *chunks, **named: feed(chunks, **named)
