"""Fixtures that every kind of test may ask for."""

from collections.abc import Iterator

import pytest

from tests.support.postgres import VERSIONS, Server, Servers


@pytest.fixture(scope="session")
def postgres_servers() -> Iterator[Servers]:
    """The servers of this run; none is started unless a test needs it."""
    servers = Servers()
    yield servers
    servers.close()


@pytest.fixture(params=VERSIONS)
def postgres_version(request: pytest.FixtureRequest) -> str:
    """Each version in turn. A test for which one is enough: parametrize("postgres_version", ["18"], indirect=True)."""
    version: str = request.param
    return version


@pytest.fixture
def postgres(postgres_version: str, postgres_servers: Servers) -> Server:
    """The running server of that version."""
    return postgres_servers.get(postgres_version)


@pytest.fixture
def database_url(postgres: Server) -> Iterator[str]:
    """A database of its own at the newest revision."""
    url = postgres.create_migrated()
    yield url
    postgres.drop(url)


@pytest.fixture
def empty_database_url(postgres: Server) -> Iterator[str]:
    """A database of its own without a schema."""
    url = postgres.create_empty()
    yield url
    postgres.drop(url)
