"""Clients from npm for the tests of this folder, and a server that lets their pages in."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Page

from tests.support.browser import new_page
from tests.support.clients import install, pages
from tests.support.postgres import Servers
from tests.support.server import Boatload, serving
from tests.support.tus import Tus


@pytest.fixture(scope="session")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the clients are installed."""
    return install(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="session")
def origin(clients: Path) -> Iterator[str]:
    """The origin of a page that has the clients in it."""
    with pages(clients) as served:
        yield served


@pytest.fixture(scope="session")
def open_server(origin: str, postgres_servers: Servers) -> Iterator[Boatload]:
    """A server that lets the page call it."""
    url = postgres_servers.get("18").create_migrated()
    with serving(database_url=url, cors_origins=origin) as running:
        yield running


@pytest.fixture
def open_tus(open_server: Boatload) -> Iterator[Tus]:
    with open_server.client() as opened:
        yield Tus(opened)


@pytest.fixture
def tus(client: httpx.Client) -> Tus:
    return Tus(client)


@pytest.fixture
async def page(origin: str) -> AsyncIterator[Page]:
    """A page of `origin`, with the clients loaded."""
    async with new_page() as opened:
        await opened.goto(origin)
        yield opened
