"""kill -9 in the middle of pieces: the offset that is told afterwards is durable, and going on makes the right file."""

import asyncio
import hashlib
import random
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from app.db.embedded import attach
from tests.acceptance.test_killed import MISCOUNTED, MISPLACED
from tests.support.postgres import fetch
from tests.support.server import Boatload, serving
from tests.support.services import pattern
from tests.support.wire import Json, finished

MIB = 1 << 20
KILLS = 5
FILES = 4
SIZE = 40 * MIB
PIECE = 5 * MIB + 123


@pytest.fixture
def own_server() -> Iterator[Boatload]:
    with serving(lease_seconds=2) as server:
        yield server


@pytest.mark.timeout(400)
def test_a_batch_that_is_sent_through_kills_is_right(own_server: Boatload) -> None:
    contents = [pattern(SIZE, seed) for seed in range(FILES)]
    entries = [
        {"ref": str(n), "filename": str(n), "size_bytes": SIZE, "sha256": hashlib.sha256(content).hexdigest()}
        for n, content in enumerate(contents)
    ]
    told = [0] * FILES
    with own_server.client() as client:
        batch = client.post("/v1/batches", json={}).headers["location"]
    for kill in range(KILLS + 1):
        with own_server.client() as client:
            answer = client.post(f"{batch}/manifest", json={"entries": entries, "seal": True})
            assert answer.status_code == 200, answer.text
            declared = answer.json()["entries"]
        for number, one in enumerate(declared):
            assert one["offset"] >= told[number], "what was acknowledged is there"
            told[number] = one["offset"]
        assert fetch(attach(own_server.data_dir), MISCOUNTED) == []
        assert fetch(attach(own_server.data_dir), MISPLACED) == []
        asyncio.run(send(own_server, declared, contents, told, kills=kill < KILLS))
        if kill < KILLS:
            own_server.start()
    with own_server.client() as client:
        assert finished(client, batch)["successful_uploads"] == FILES
        for number, one in enumerate(declared):
            assert hashlib.sha256(client.get(one["content_url"]).content).hexdigest() == entries[number]["sha256"]


async def send(server: Boatload, declared: list[Json], contents: list[bytes], told: list[int], *, kills: bool) -> None:
    """Send what is missing, all files at once; the server is killed meanwhile, if it is to be."""

    async def one(client: httpx.AsyncClient, number: int) -> None:
        entry, content = declared[number], contents[number]
        offset = entry["offset"]
        with suppress(httpx.TransportError):
            while offset < SIZE:
                piece = content[offset : offset + PIECE]
                answer = await client.put(entry["content_url"], content=piece, headers={"Upload-Offset": str(offset)})
                assert answer.status_code in {200, 201}, answer.text
                offset += len(piece)
                told[number] = offset

    async with server.async_client() as client, asyncio.TaskGroup() as group:
        for number in range(FILES):
            group.create_task(one(client, number))
        if kills:
            await asyncio.sleep(random.uniform(0.05, 0.4))
            server.kill()
