"""A server that lets nobody in without a credential."""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import httpx
import pytest

from tests.support.credentials import ALL, bearer, make_key
from tests.support.postgres import Servers
from tests.support.server import Boatload, serving

OWNER = UUID("11111111-1111-4111-8111-111111111111")
STRANGER = UUID("22222222-2222-4222-8222-222222222222")


@dataclass(frozen=True, slots=True)
class Guarded:
    """The server, its database, and a key of each of two owners with all scopes."""

    server: Boatload
    url: str
    key: str
    strangers: str

    def client(self, secret: str | None = None) -> httpx.Client:
        """A client that shows a credential, or none."""
        client = self.server.client()
        client.headers.update(bearer(secret) if secret else {})
        return client


@pytest.fixture(scope="session")
def guarded(postgres_servers: Servers) -> Iterator[Guarded]:
    url = postgres_servers.get("18").create_migrated()
    key, strangers = (make_key(url, owner=owner, scopes=ALL) for owner in (OWNER, STRANGER))
    with serving(database_url=url) as server:
        yield Guarded(server, url, key, strangers)


@pytest.fixture
def owner(guarded: Guarded) -> Iterator[httpx.Client]:
    with guarded.client(guarded.key) as client:
        yield client


@pytest.fixture
def stranger(guarded: Guarded) -> Iterator[httpx.Client]:
    with guarded.client(guarded.strangers) as client:
        yield client


@pytest.fixture
def nobody(guarded: Guarded) -> Iterator[httpx.Client]:
    with guarded.client() as client:
        yield client
