"""One statement over a connection of its own, for code that is not asynchronous."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final, LiteralString

import asyncpg

_TIMEOUT_SECONDS: Final = 30.0


def fetch_value(dsn: str, statement: LiteralString) -> object:
    """Run `statement` outside any transaction and return the first column of its first row, or None.

    Works with or without an event loop in the calling thread, because it has a thread of its own. Raises OSError
    (TimeoutError included) when nobody answers, asyncpg.PostgresError for what the server refuses.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(_fetch(dsn, statement))).result()


async def _fetch(dsn: str, statement: LiteralString) -> object:
    connection = await asyncpg.connect(dsn, timeout=_TIMEOUT_SECONDS, command_timeout=_TIMEOUT_SECONDS)
    try:
        value: object = await connection.fetchval(statement)
        return value
    finally:
        await connection.close(timeout=_TIMEOUT_SECONDS)
