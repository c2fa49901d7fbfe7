"""One server for the whole folder, with limits that a test can pass, and nothing of it left behind."""

from collections.abc import Iterator

import httpx
import pytest

from tests.support.postgres import Servers
from tests.support.server import Boatload, serving

MIB = 1 << 20
LIMITS = {
    "max_file_bytes": 3 * MIB,
    "max_request_bytes": 6 * MIB,
    "max_files_per_batch": 5,
    "image_max_pixels": 1_000_000,
}


@pytest.fixture(scope="session")
def server(postgres_servers: Servers) -> Iterator[Boatload]:
    with serving(database_url=postgres_servers.get("18").create_migrated(), **LIMITS) as running:
        yield running


@pytest.fixture
def client(server: Boatload) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened
