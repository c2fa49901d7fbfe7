"""The one PostgreSQL that all contenders use: an empty database for each, and a look at what they wrote."""

import asyncio
from typing import Final
from urllib.parse import urlsplit

import asyncpg

COUNT_UPLOADS: Final = "SELECT count(*) FROM uploads"
SETTINGS: Final = ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers")


class UnfairDatabaseError(Exception):
    """The database server does not sync what it commits, so nothing measured on it would count."""


def create_database(dsn: str, name: str) -> str:
    """Create an empty database beside the one of `dsn`; return its DSN."""

    async def create() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()

    asyncio.run(create())
    return urlsplit(dsn)._replace(path=f"/{name}").geturl()


def count_uploads(dsn: str) -> int:
    """Return the rows of a contender's `uploads` table; every contender has one of that name."""

    async def count() -> int:
        connection = await asyncpg.connect(dsn)
        try:
            rows: int = await connection.fetchval(COUNT_UPLOADS)
        finally:
            await connection.close()
        return rows

    return asyncio.run(count())


def describe_server(dsn: str) -> str:
    """Return the version and the settings of durability. Raises UnfairDatabaseError when a commit is not synced."""

    async def describe() -> tuple[str, dict[str, str]]:
        connection = await asyncpg.connect(dsn)
        try:
            version: str = await connection.fetchval("SHOW server_version")
            shown = {name: str(await connection.fetchval(f"SHOW {name}")) for name in SETTINGS}
        finally:
            await connection.close()
        return version, shown

    version, shown = asyncio.run(describe())
    if shown["fsync"] != "on" or shown["synchronous_commit"] == "off":
        raise UnfairDatabaseError(f"PostgreSQL runs with {shown}")
    return f"PostgreSQL {version} ({', '.join(f'{name} {value}' for name, value in shown.items())})"
