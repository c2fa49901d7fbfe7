"""Real servers for the acceptance tests, and what they said when a test fails."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from playwright.async_api import Page

from tests.support.browser import new_page
from tests.support.postgres import Servers
from tests.support.server import Boatload, living, serving
from tests.support.tus import MAX_FILE_BYTES, ORIGIN


@pytest.fixture(scope="session")
def server(postgres_servers: Servers) -> Iterator[Boatload]:
    """One server for all tests that leave it as it was, on a database of PostgreSQL 18."""
    url = postgres_servers.get("18").create_migrated()
    with serving(database_url=url) as running:
        yield running


@pytest.fixture(scope="session", params=["18", "16"])
def each_server(request: pytest.FixtureRequest, postgres_servers: Servers) -> Iterator[Boatload]:
    """The same on each version of PostgreSQL that the wheel brings."""
    if request.param == "18":
        yield request.getfixturevalue("server")
        return
    with serving(database_url=postgres_servers.get(request.param).create_migrated()) as running:
        yield running


@pytest.fixture(scope="session")
def behind_proxy(postgres_servers: Servers) -> Iterator[Boatload]:
    """A server that trusts a proxy, takes pages of ORIGIN, and no file over MAX_FILE_BYTES."""
    origins = f"{ORIGIN}, http://localhost:3000"
    url = postgres_servers.get("18").create_migrated()
    with serving(database_url=url, trust_proxy=True, cors_origins=origins, max_file_bytes=MAX_FILE_BYTES) as running:
        yield running


@pytest.fixture
def client(server: Boatload) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


@pytest.fixture
def each_client(each_server: Boatload) -> Iterator[httpx.Client]:
    with each_server.client() as opened:
        yield opened


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """A page of a real browser."""
    async with new_page() as opened:
        yield opened


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    if report.failed:
        for server in living:
            report.sections.append((f"what the server at {server.url} said", server.log[-3000:]))
    return report
