"""PATCH on connections that break, stall or are left behind: what is durable stays, and the next one goes on."""

import asyncio
import os
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.server import Boatload
from tests.support.tus import BODY, ENDPOINT, VERSION, Tus, metadata, states
from tests.support.wire import connection, finished, read_answer, request_head

SIZE = 3_000_000


def head_of(url: str, offset: int, length: int, **headers: object) -> bytes:
    named = {"Content-Length": length, "Upload-Offset": offset, **VERSION, **BODY, **headers}
    return request_head("PATCH", url, **named)


@pytest.fixture
async def api(server: Boatload) -> AsyncIterator[httpx.AsyncClient]:
    async with server.async_client() as client:
        yield client


async def head(api: httpx.AsyncClient, url: str) -> int:
    answer = await api.head(url, headers=VERSION)
    assert answer.status_code == 200
    return int(answer.headers["upload-offset"])


async def patch(api: httpx.AsyncClient, url: str, offset: int, data: bytes) -> httpx.Response:
    return await api.patch(url, content=data, headers=VERSION | BODY | {"upload-offset": str(offset)})


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("cut", [0, 1, 65_536, 1_500_000, SIZE - 1])
async def test_a_cut_request_keeps_what_came(
    server: Boatload, api: httpx.AsyncClient, tus: Tus, ending: str, cut: int
) -> None:
    data = os.urandom(SIZE)
    url = tus.create(SIZE)
    async with connection(server.port) as (_, writer):
        writer.write(head_of(url, 0, SIZE) + data[:cut])
        await writer.drain()
        if ending == "reset":
            await asyncio.sleep(0.2)
            writer.transport.abort()
    offset = await head(api, url)
    deadline = time.monotonic() + 20
    while ending == "close" and offset < cut and time.monotonic() < deadline:
        offset = await head(api, url)
    assert offset <= cut
    assert ending == "reset" or offset == cut
    answer = await patch(api, url, offset, data[offset:])
    assert answer.status_code == 204, answer.text
    assert tus.content(url) == data


async def test_a_body_that_says_it_is_longer_keeps_what_came(
    server: Boatload, api: httpx.AsyncClient, tus: Tus
) -> None:
    url = tus.create(10)
    async with connection(server.port) as (_, writer):
        writer.write(head_of(url, 0, 10) + b"hello")
        writer.write_eof()
        await asyncio.sleep(0.1)
    assert await head(api, url) == 5
    assert (await patch(api, url, 5, b"world")).status_code == 204
    assert tus.content(url) == b"helloworld"


async def test_a_new_request_takes_over_from_one_that_stalls(
    server: Boatload, api: httpx.AsyncClient, tus: Tus
) -> None:
    data = os.urandom(SIZE)
    url = tus.create(SIZE)
    async with connection(server.port) as (reader, writer):
        writer.write(head_of(url, 0, SIZE) + data[:1_000_000])
        await writer.drain()
        await asyncio.sleep(0.2)
        started = time.monotonic()
        offset = await head(api, url)
        answer = await patch(api, url, offset, data[offset:])
        assert answer.status_code == 204, answer.text
        assert time.monotonic() - started < 3
        assert offset == 1_000_000
        old = await asyncio.wait_for(read_answer(reader), 10)
        assert old.status_code == 423
        assert old.headers["tus-resumable"] == "1.0.0"
        with pytest.raises(asyncio.IncompleteReadError):
            await asyncio.wait_for(reader.readexactly(1), 10)
    assert tus.content(url) == data
    assert states(finished(tus.client, tus.batch_of(url)["url"])) == {"total": 1, "processed": 1, "successful": 1}


async def test_a_patch_takes_over_without_asking_first(server: Boatload, api: httpx.AsyncClient, tus: Tus) -> None:
    url = tus.create(10)
    async with connection(server.port) as (reader, writer):
        writer.write(head_of(url, 0, 10) + b"hello")
        await writer.drain()
        await asyncio.sleep(0.2)
        answer = await patch(api, url, 0, b"helloworld")
        assert answer.status_code == 409
        offset = int((await api.head(url, headers=VERSION)).headers["upload-offset"])
        assert offset == 5
        assert (await asyncio.wait_for(read_answer(reader), 10)).status_code == 423
    assert (await patch(api, url, 5, b"world")).status_code == 204
    assert tus.content(url) == b"helloworld"


async def test_a_delete_ends_whoever_writes(server: Boatload, api: httpx.AsyncClient, tus: Tus) -> None:
    url = tus.create(10)
    async with connection(server.port) as (reader, writer):
        writer.write(head_of(url, 0, 10) + b"hello")
        await writer.drain()
        await asyncio.sleep(0.2)
        answer = await api.delete(url, headers=VERSION)
        assert answer.status_code == 204
        assert (await asyncio.wait_for(read_answer(reader), 10)).status_code in {404, 410, 423}
    assert (await api.head(url, headers=VERSION)).status_code in {404, 410}


async def test_a_cut_creation_is_forgotten_unless_it_has_a_ref(
    server: Boatload, api: httpx.AsyncClient, tus: Tus
) -> None:
    batch = tus.open_batch()
    for ref in (None, "r"):
        named = metadata(batch_id=batch["id"], **({"ref": ref} if ref else {}))
        headers = {"Content-Length": 10, "Upload-Length": 10, "Upload-Metadata": named, **VERSION, **BODY}
        async with connection(server.port) as (_, writer):
            writer.write(request_head("POST", ENDPOINT, **headers) + b"hello")
            await writer.drain()
            await asyncio.sleep(0.2)
        deadline = time.monotonic() + 10
        while (now := tus.batch(batch["url"]))["receiving_uploads"] != bool(ref) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert states(now) == ({"total": 1, "receiving": 1} if ref else {})
    again = await api.post(
        ENDPOINT, content=b"hello", headers=VERSION | BODY | {"upload-length": "10", "upload-metadata": named}
    )
    assert again.status_code == 201
    assert again.headers["upload-offset"] == "5"
    assert (await patch(api, again.headers["location"], 5, b"world")).status_code == 204
    assert tus.content(again.headers["location"]) == b"helloworld"


async def test_a_cut_piece_with_a_checksum_is_not_kept(server: Boatload, api: httpx.AsyncClient, tus: Tus) -> None:
    url = tus.create(10)
    async with connection(server.port) as (_, writer):
        checksum = "sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00="
        writer.write(head_of(url, 0, 10, Upload_Checksum=checksum) + b"hello")
        await writer.drain()
    assert await head(api, url) == 0
    assert (await patch(api, url, 0, b"helloworld")).status_code == 204


async def test_a_refusal_is_heard_although_the_body_is_still_on_its_way(server: Boatload, tus: Tus) -> None:
    url = tus.create(5)
    for length in (1_000_000, 8_000_000):
        async with connection(server.port) as (reader, writer):
            writer.write(head_of(url, 1, length))
            sending = asyncio.create_task(_send(writer, length))
            answer = await asyncio.wait_for(read_answer(reader), 20)
            assert answer.status_code in {409, 413}
            await sending


async def _send(writer: asyncio.StreamWriter, length: int) -> None:
    for _ in range(length // 100_000):
        writer.write(bytes(100_000))
        await writer.drain()


@pytest.mark.parametrize(
    "headers", [{"Content-Length": 10**9}, {"Content-Length": 6, "Expect": "100-continue"}], ids=str
)
async def test_a_refused_body_that_nobody_waits_for_ends_its_connection(
    server: Boatload, tus: Tus, headers: dict[str, object]
) -> None:
    url = tus.create(5)
    async with connection(server.port) as (reader, writer):
        writer.write(request_head("PATCH", url, Upload_Offset=0, **VERSION, **BODY, **headers))
        answer = await asyncio.wait_for(read_answer(reader), 20)
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"
        assert await asyncio.wait_for(reader.read(), 20) == b""
    assert tus.offset(url) == 0
