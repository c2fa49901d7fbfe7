"""A server that is killed, and one that is stopped, in the middle of uploads: another goes on from what is durable."""

import asyncio
import os
from collections.abc import Callable

import httpx
import pytest

from tests.support.postgres import Server
from tests.support.server import Boatload, serving
from tests.support.tus import BODY, VERSION, Tus, states
from tests.support.wire import connection, finished, request_head

SIZE = 30_000_000


@pytest.mark.parametrize("postgres_version", ["18"], indirect=True)
@pytest.mark.parametrize("ending", ["killed", "stopped"])
def test_it_goes_on_from_what_is_durable(database_url: str, postgres: Server, ending: str) -> None:
    data = os.urandom(SIZE)
    with serving(database_url=database_url, shutdown_seconds=1) as server:
        with server.client() as client:
            tus = Tus(client)
            url, whole = tus.create(SIZE), tus.create(5)
            assert tus.patch(url, 0, data[:1_000_000]).status_code == 204
            assert tus.patch(whole, 0, b"hello").status_code == 204
        asyncio.run(_send_until(server, url, data, server.kill if ending == "killed" else server.stop))
        server.start()
        with server.client() as client:
            tus = Tus(client)
            offset = tus.offset(url)
            assert 1_000_000 <= offset <= 20_000_000
            assert ending == "killed" or offset >= 10_000_000
            assert tus.offset(whole) == 5
            answer = client.patch(url, content=data[offset:], headers=VERSION | BODY | {"upload-offset": str(offset)})
            assert answer.status_code == httpx.codes.NO_CONTENT, answer.text
            assert tus.content(url) == data
            assert states(finished(client, tus.batch_of(url)["url"])) == {"total": 1, "processed": 1, "successful": 1}


async def _send_until(server: Boatload, url: str, data: bytes, end: Callable[[], object]) -> None:
    """Send up to byte 20,000,000 of a piece that goes to the end of the file; in its middle the server is ended."""
    headers = {"Content-Length": SIZE - 1_000_000, "Upload-Offset": 1_000_000, **VERSION, **BODY}
    async with connection(server.port) as (_, writer):
        writer.write(request_head("PATCH", url, **headers) + data[1_000_000:20_000_000])
        await writer.drain()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(end)
