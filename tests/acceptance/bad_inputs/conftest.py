"""One server for the whole folder, with limits that a test can pass."""

from collections.abc import Iterator

import httpx
import pytest

from tests.support.bad_inputs import LIMITS
from tests.support.postgres import Servers
from tests.support.server import Boatload, serving
from tests.support.tus import Tus


@pytest.fixture(scope="session")
def server(postgres_servers: Servers) -> Iterator[Boatload]:
    with serving(database_url=postgres_servers.get("18").create_migrated(), **LIMITS) as running:
        yield running


@pytest.fixture
def client(server: Boatload) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


@pytest.fixture
def tus(client: httpx.Client) -> Tus:
    return Tus(client)
