"""Memory does not grow with what is sent, by how many, or how slowly it is read."""

import asyncio
import hashlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from app.storage.base import BLOCK_BYTES
from tests.support.postgres import Servers
from tests.support.server import Boatload, serving
from tests.support.wire import (
    CONTENT_TYPE,
    FORM,
    File,
    all_uploads,
    connection,
    finished,
    length,
    multipart,
    read_answer,
    request_head,
    send,
    stream,
)

MIB = 1024 * 1024
GROWTH_BYTES = 64 * MIB
PATTERN = random.Random(5).randbytes(MIB)


@pytest.fixture(scope="module")
def own_server(postgres_servers: Servers) -> Iterator[Boatload]:
    """A server whose memory nobody else has grown; warmed up, so that what it always needs is there."""
    with serving(database_url=postgres_servers.get("18").create_migrated()) as server:
        with server.client() as client:
            for _ in range(3):
                answer = send(
                    client, "/v1/uploads", *(File(f"{n}", PATTERN) for n in range(8)), File("big", PATTERN * 4)
                )
                finished(client, answer.json()["url"])
        yield server


class Watch:
    """The most memory that a process had since `begin`, over what it had then."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._clear = Path(f"/proc/{pid}/clear_refs")
        self._clear.write_text("5")  # the high-water mark begins again
        self._before = self._read("VmRSS")

    def _read(self, name: str) -> int:
        line = next(line for line in self._status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024

    @property
    def growth_bytes(self) -> int:
        return self._read("VmHWM") - self._before


def a_file_of(mib: int, path: Path) -> File:
    with path.open("wb") as opened:
        for _ in range(mib):
            opened.write(PATTERN)
    return File(path.name, path)


async def test_one_large_file_takes_little_memory(own_server: Boatload, tmp_path: Path) -> None:
    file = a_file_of(256, tmp_path / "large")
    watch = Watch(own_server.pid)

    async def body() -> AsyncIterator[bytes]:
        for number, piece in enumerate(stream([file])):
            if number % 32 == 0:
                await asyncio.sleep(0.01)  # no slower than a good network
            yield piece

    async with own_server.async_client() as client:
        headers = FORM | {"content-length": str(length([file]))}
        answer = await client.post("/v1/uploads", content=body(), headers=headers)
    assert answer.status_code == 201
    assert answer.json()["results"][0]["upload"]["sha256"] == file.sha256
    assert watch.growth_bytes < GROWTH_BYTES


async def test_many_clients_at_once_take_little_memory(own_server: Boatload) -> None:
    body = multipart(File("four", PATTERN * 4))
    watch = Watch(own_server.pid)
    async with own_server.async_client() as client:
        answers = await asyncio.gather(
            *(client.post("/v1/uploads", content=body, headers=FORM) for _ in range(50)),
        )
    assert {answer.status_code for answer in answers} == {201}
    assert watch.growth_bytes < GROWTH_BYTES


async def test_many_clients_with_small_files_take_little_memory(own_server: Boatload) -> None:
    """Files that are held in memory until they are whole: all clients stand just before that at the same time."""
    body = multipart(File("almost", PATTERN[:-1]))
    watch = Watch(own_server.pid)

    async def hesitate(waiting: asyncio.Barrier) -> int:
        async with connection(own_server.port) as (reader, writer):
            writer.write(request_head("POST", "/v1/uploads", Content_Type=CONTENT_TYPE, Content_Length=len(body)))
            writer.write(body[:-100])
            await asyncio.wait_for(waiting.wait(), 20)
            await asyncio.sleep(0.5)
            writer.write(body[-100:])
            return (await asyncio.wait_for(read_answer(reader), 60)).status_code

    waiting = asyncio.Barrier(100)
    statuses = await asyncio.gather(*(hesitate(waiting) for _ in range(100)))
    assert set(statuses) == {201}
    assert watch.growth_bytes < GROWTH_BYTES


async def test_clients_that_stall_in_a_file_keep_nobody_else_out(own_server: Boatload) -> None:
    """Together they would hold twice the memory that is set aside for bodies."""
    body = multipart(File("stalled", PATTERN * 2))
    watch = Watch(own_server.pid)
    async with AsyncExitStack() as stalled, own_server.async_client(seconds=20) as client:
        for _ in range(70):
            _, writer = await stalled.enter_async_context(connection(own_server.port))
            writer.write(request_head("POST", "/v1/uploads", Content_Type=CONTENT_TYPE, Content_Length=len(body)))
            writer.write(body[:900_000])
            await writer.drain()
        for size in (10, 100_000, 3 * MIB):
            answer = await client.post("/v1/uploads", content=multipart(File("a", bytes(size))), headers=FORM)
            assert answer.status_code == 201
    assert watch.growth_bytes < GROWTH_BYTES


async def test_clients_that_stall_in_a_manifest_take_little_memory_and_keep_nobody_out(own_server: Boatload) -> None:
    entries = [{"ref": f"{number}", "filename": "f" * 200, "size_bytes": 1} for number in range(10_000)]
    whole = json.dumps({"entries": entries}).encode().ljust(15 * MIB)
    watch = Watch(own_server.pid)
    async with AsyncExitStack() as stalled, own_server.async_client(seconds=60) as client:
        urls = [(await client.post("/v1/batches")).headers["location"] + "/manifest" for _ in range(12)]
        head = {"Content_Type": "application/json", "Content_Length": len(whole)}
        for url in urls:
            _, writer = await stalled.enter_async_context(connection(own_server.port))
            writer.write(request_head("POST", url, **head) + whole[:-1])
            await writer.drain()
        assert watch.growth_bytes < GROWTH_BYTES
        bodies = [
            client.post(url, content=whole[:3_000_000], headers={"content-type": "application/json"}) for url in urls
        ]
        assert {answer.status_code for answer in await asyncio.gather(*bodies)} == {200}
    assert watch.growth_bytes < 2 * GROWTH_BYTES


async def test_a_slow_reader_of_a_large_file_takes_little_memory(own_server: Boatload, tmp_path: Path) -> None:
    file = a_file_of(64, tmp_path / "large")
    with own_server.client() as client:
        headers = FORM | {"content-length": str(length([file]))}
        url = client.post("/v1/uploads", content=stream([file]), headers=headers).json()["results"][0]["upload"][
            "content_url"
        ]
    watch = Watch(own_server.pid)

    async def read_slowly() -> str:
        digest = hashlib.sha256()
        async with connection(own_server.port) as (reader, writer):
            writer.write(request_head("GET", url, Connection="close"))
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(1)  # all that it would hold for us is there by now
            while piece := await reader.read(MIB):
                digest.update(piece)
        return digest.hexdigest()

    assert set(await asyncio.gather(*(read_slowly() for _ in range(8)))) == {file.sha256}
    assert watch.growth_bytes < GROWTH_BYTES


async def test_a_large_answer_list_takes_little_memory(own_server: Boatload) -> None:
    files = [File(f"{number:05}", b"") for number in range(10_000)]
    watch = Watch(own_server.pid)
    async with own_server.async_client() as client:
        answer = await client.post("/v1/uploads", content=multipart(*files), headers=FORM)
    assert answer.status_code == 201
    assert len(answer.json()["results"]) == 10_000
    assert watch.growth_bytes < 2 * GROWTH_BYTES


@pytest.mark.parametrize("sent_mib", [0.5, 10])
async def test_a_client_that_leaves_in_the_middle_of_a_file_leaves_no_upload_of_it(
    own_server: Boatload, sent_mib: float
) -> None:
    """Whether what came of it was in memory or in the store already."""
    with own_server.client() as client:
        url = client.post("/v1/batches").headers["location"]
        before = objects(own_server)
        whole = multipart(File("whole", b"whole"), File("cut", bytes(20 * MIB)))
        sent = whole[: int(sent_mib * MIB)]
        async with connection(own_server.port) as (_, writer):
            head = request_head("POST", f"{url}/uploads", Content_Type=CONTENT_TYPE, Content_Length=len(whole))
            writer.write(head + sent)
            await writer.drain()
            if sent_mib > 1:
                await until(
                    lambda: max(objects(own_server).values()) >= 5 * MIB or len(objects(own_server)) > len(before)
                )
            await asyncio.sleep(0.3)
        await until(lambda: len(all_uploads(client, url)) == 1)
        await asyncio.sleep(0.5)
        assert [upload["filename"] for upload in all_uploads(client, url)] == ["whole"]
        assert client.get(url).json()["received_bytes"] == 5
        assert sum(objects(own_server).values()) <= sum(before.values()) + BLOCK_BYTES, (
            "bytes of the cut file are still there"
        )


def objects(server: Boatload) -> dict[str, int]:
    """Name and size of every file in the store."""
    return {path.name: path.stat().st_size for path in server.objects.glob("*/*")}


async def until(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_requests_one_after_the_other_leave_nothing_behind(own_server: Boatload) -> None:
    with own_server.client() as client:
        send(client, "/v1/uploads", File("a", PATTERN))
        descriptors = len(list(Path(f"/proc/{own_server.pid}/fd").iterdir()))
        watch = Watch(own_server.pid)
        for _ in range(300):
            answer: httpx.Response = send(client, "/v1/uploads", File("a", PATTERN[:50_000]), File("../bad", b"x"))
            assert answer.status_code == 207
        assert watch.growth_bytes < 16 * MIB
        assert len(list(Path(f"/proc/{own_server.pid}/fd").iterdir())) <= descriptors + 10
