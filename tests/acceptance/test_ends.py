"""A connection that ends in the same moment as its bytes arrive: what was whole is kept, who asked is answered."""

import asyncio

import pytest

from tests.support.server import Boatload
from tests.support.wire import CONTENT_TYPE, File, connection, multipart, read_answer, request_head


@pytest.mark.parametrize("ending", ["half-close", "close"])
async def test_whole_files_before_an_immediate_end_are_kept(server: Boatload, ending: str) -> None:
    body = multipart(File("one", b"1"), File("two", b"2"))
    async with server.async_client() as api:
        url = (await api.post("/v1/batches")).headers["location"]
        async with connection(server.port) as (reader, writer):
            head = request_head("POST", f"{url}/uploads", Content_Type=CONTENT_TYPE, Content_Length=len(body) + 100)
            writer.write(head + body[:-4])
            await writer.drain()
            if ending == "half-close":
                writer.write_eof()
                await reader.read()
        async with asyncio.timeout(10):
            while (await api.get(url)).json()["total_uploads"] != 1:
                await asyncio.sleep(0.02)


async def test_a_whole_request_followed_by_a_half_close_is_answered(server: Boatload) -> None:
    body = multipart(File("one", b"1"))
    async with connection(server.port) as (reader, writer):
        writer.write(request_head("POST", "/v1/uploads", Content_Type=CONTENT_TYPE, Content_Length=len(body)) + body)
        writer.write_eof()
        assert (await asyncio.wait_for(read_answer(reader), 10)).status_code == 201
