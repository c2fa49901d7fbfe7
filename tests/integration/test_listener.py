"""The listening connection: whatever becomes of it, it comes back, and says that something may have been missed."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from app.db.listen import Listener
from tests.support.postgres import until

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)

TERMINATE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'boatload-listener'
"""


class Ear:
    """What a listener told."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.missed = 0

    def miss(self) -> None:
        self.missed += 1


@asynccontextmanager
async def listening(dsn: str, *, probe_seconds: float = 5) -> AsyncIterator[Ear]:
    ear, stop = Ear(), asyncio.Event()
    listener = Listener(dsn, "boatload_batches", hear=ear.heard.append, missed=ear.miss, probe_seconds=probe_seconds)
    running = asyncio.create_task(listener.run(stop))
    try:
        await until(lambda: ear.missed == 1)
        yield ear
    finally:
        stop.set()
        await asyncio.wait_for(running, 5)


async def execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def test_payloads_are_heard_in_their_order(database_url: str) -> None:
    async with listening(database_url) as ear:
        await execute(database_url, *(f"NOTIFY boatload_batches, '{number}'" for number in range(20)))
        await until(lambda: len(ear.heard) == 20)
    assert ear.heard == [str(number) for number in range(20)]
    assert ear.missed == 1


async def test_a_connection_that_the_server_ends_is_made_anew_within_seconds(database_url: str) -> None:
    async with listening(database_url) as ear:
        for times in (2, 3):
            await execute(database_url, TERMINATE)
            await until(lambda: ear.missed == times, seconds=5)  # noqa: B023 - waited for at once
            await execute(database_url, f"NOTIFY boatload_batches, '{times}'")
            await until(lambda: ear.heard[-1:] == [str(times)], seconds=5)  # noqa: B023 - the same


class Wall:
    """A way to PostgreSQL that can become a wall: nothing passes, and nobody is told."""

    def __init__(self, target: Path) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.connections = 0
        self._target = target

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there_reader, there_writer = await asyncio.open_unix_connection(self._target)
        await asyncio.gather(self._pass(reader, there_writer), self._pass(there_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await self.open.wait()
                writer.write(data)
        writer.close()


async def test_a_peer_that_vanished_without_a_word_is_found_out(database_url: str) -> None:
    url = urlsplit(database_url)
    socket = Path(parse_qs(url.query)["host"][0])
    port = parse_qs(url.query).get("port", ["5432"])[0]
    folder = Path(tempfile.mkdtemp(prefix="bl-", dir="/tmp"))
    wall = Wall(socket / f".s.PGSQL.{port}")
    server = await asyncio.start_unix_server(wall.serve, folder / f".s.PGSQL.{port}")
    dsn = database_url.replace(str(socket), str(folder))
    try:
        async with listening(dsn, probe_seconds=0.3) as ear:
            wall.open.clear()
            await asyncio.sleep(1.5)  # longer than two probes; what is tried anew meets the wall as well
            before = wall.connections
            wall.open.set()
            await until(lambda: ear.missed >= 2, seconds=10)
            assert before >= 2
            await execute(database_url, "NOTIFY boatload_batches, 'after'")
            await until(lambda: ear.heard == ["after"], seconds=5)
    finally:
        server.close()
        shutil.rmtree(folder)


async def test_a_healthy_silence_is_left_alone(database_url: str) -> None:
    async with listening(database_url, probe_seconds=0.1) as ear:
        await asyncio.sleep(1)
        assert ear.missed == 1
