"""A deliverer in a process of its own, for tests to kill: `python -m tests.support.delivering <dsn>`."""

import asyncio
import sys

from app.db.pool import Database
from tests.support.webhooks import deliverer


async def main(dsn: str) -> None:
    database = await Database.open(dsn, size=2)
    async with deliverer(database):
        await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
