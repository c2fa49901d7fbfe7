"""Clients that lose interest in what they asked for."""

import asyncio
import time

import psutil

from tests.support.server import Boatload
from tests.support.wire import connection, request_head


async def test_who_goes_away_in_the_middle_of_a_file_leaves_nothing_open_and_alarms_nobody(server: Boatload) -> None:
    """Whenever that is: a file is closed when nobody reads it any more, and not while somebody does."""
    process = psutil.Process(server.pid)
    async with server.async_client() as api:
        batch = (await api.post("/v1/batches")).headers["location"]
        url = (await api.put(f"{batch}/files/big", content=bytes(20 << 20))).json()["content_url"]
        await api.post(f"{batch}/cancel")  # so that no worker has it open
        said, before = len(server.log), len(process.open_files())

        async def leave(number: int) -> None:
            async with connection(server.port) as (reader, writer):
                writer.write(request_head("GET", url))
                assert await reader.read(1000 + number % 7 * 30_000)
                writer.transport.abort()

        for start in range(0, 1000, 20):
            await asyncio.gather(*(leave(number) for number in range(start, start + 20)))
        deadline = time.monotonic() + 10
        while len(process.open_files()) > before and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert len(process.open_files()) <= before
    assert "storage failed" not in server.log[said:]
    assert "Traceback" not in server.log[said:]
