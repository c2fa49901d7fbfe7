"""Real PostgreSQL for tests: one server of each version, a migrated template in it, a fresh database for each test."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from app.db import migrate
from app.db.embedded import EmbeddedPostgres

VERSIONS: Final = ("18", "16")
TEMPLATE: Final = "migrated"

# Tests lose nothing in a crash of the machine, and clone many databases.
FAST: Final = (
    "ALTER SYSTEM SET fsync = off",
    "ALTER SYSTEM SET full_page_writes = off",
    "ALTER SYSTEM SET synchronous_commit = off",
    "SELECT pg_reload_conf()",
)

T = TypeVar("T")


def apart(function: Callable[[], T]) -> T:
    """Call in a thread, where no event loop runs, whatever runs here."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def execute(url: str, *statements: str) -> None:
    """Run statements one by one on a connection of their own, each its own transaction."""

    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    in_loop(run)


def fetch(url: str, query: str, *arguments: object) -> list[asyncpg.Record]:
    """Return the rows of one query, on a connection of its own."""

    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close()

    return in_loop(run)


def in_loop(run: Callable[[], Coroutine[object, object, T]]) -> T:
    """Run a coroutine to its end in a thread and a loop of its own."""
    return apart(lambda: asyncio.run(run()))


async def until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    """Return once `condition` holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


class Server:
    """One running PostgreSQL. The databases that it hands out are dropped by those who asked for them."""

    def __init__(self, folder: Path, version: str) -> None:
        self._embedded: Final = EmbeddedPostgres(folder, version)
        self._url = self._embedded.start()
        self._numbers: Final = count(1)
        self._has_template = False
        execute(self._url, *FAST)

    def stop(self) -> None:
        self._embedded.stop()

    def create_empty(self) -> str:
        """Return the URL of a new database without a schema."""
        return self._create("template1")

    def create_migrated(self) -> str:
        """Return the URL of a new database at the newest revision."""
        if not self._has_template:
            execute(self._url, f"CREATE DATABASE {TEMPLATE}")
            apart(lambda: migrate.upgrade(self._url_of(TEMPLATE)))
            self._has_template = True
        return self._create(TEMPLATE)

    def drop(self, url: str) -> None:
        """Drop a database, whoever is still connected."""
        execute(self._url, f"DROP DATABASE {urlsplit(url).path[1:]} WITH (FORCE)")

    def _create(self, template: str) -> str:
        name = f"test_{next(self._numbers)}"
        execute(self._url, f"CREATE DATABASE {name} TEMPLATE {template}")
        return self._url_of(name)

    def _url_of(self, name: str) -> str:
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{name}"))


class Servers:
    """The servers of one test run, each started when first asked for, all stopped by `close`."""

    def __init__(self) -> None:
        self._folder: Final = Path(tempfile.mkdtemp(prefix="bl-", dir="/tmp"))  # short: a socket's path has 107 bytes
        self._folder.chmod(0o755)  # where we are root, the server is another user
        self._servers: Final[dict[str, Server]] = {}

    def get(self, version: str) -> Server:
        if version not in self._servers:
            self._servers[version] = Server(self._folder / version, version)
        return self._servers[version]

    def close(self) -> None:
        for server in self._servers.values():
            server.stop()
        shutil.rmtree(self._folder)
