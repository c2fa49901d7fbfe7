"""Real servers for the acceptance tests, and what they said when a test fails."""

import shutil
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from playwright.async_api import Page, async_playwright

from tests.support.missing import lacking
from tests.support.postgres import Servers
from tests.support.server import Boatload, living, serving

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


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
    chromium = shutil.which("chromium")
    if chromium is None:
        lacking("there is no chromium here")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            yield await browser.new_page(viewport={"width": 1200, "height": 1600})
        finally:
            await browser.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    if report.failed:
        for server in living:
            report.sections.append((f"what the server at {server.url} said", server.log[-3000:]))
    return report
