"""A body cut at every byte: what was whole is kept and listed, what was not is nowhere."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httpx
import pytest

from tests.support.census import WHOLE, unchanged
from tests.support.server import Boatload
from tests.support.wire import Answer, File, Json, connection, multipart, problem, read_answer, request_head, verdicts

BOUNDARY = "cut"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
FILES = (
    File("one", b"first", None, "f"),
    File("two", b"\r\n--cu\r\n--", None, "f"),
    File("three", b"", None, "f"),
)
PREFIXES = [multipart(*FILES[:count], boundary=BOUNDARY)[: -len("--\r\n")] for count in range(4)]
"""The body up to and with the delimiter behind so many files; the first of them is only an opening delimiter."""
BODY = multipart(*FILES, boundary=BOUNDARY)
CUTS = range(len(BODY) - 1)
"""All but the end of the line behind the closing boundary, which adds nothing."""
AT_ONCE = 16
ENDINGS = ("half-close", "close", "reset")


def certain(cut: int) -> int:
    """How many files are whole beyond doubt: the line of the delimiter behind them has ended."""
    return sum(cut >= len(prefix) + 2 for prefix in PREFIXES[1:])


def possible(cut: int) -> int:
    """How many may be whole: their delimiter is there."""
    return sum(cut >= len(prefix) for prefix in PREFIXES[1:])


@pytest.fixture(autouse=True)
def nothing_half_stored(server: Boatload) -> Iterator[None]:
    with unchanged(server, besides=WHOLE):
        yield


@pytest.fixture
async def api(server: Boatload) -> AsyncIterator[httpx.AsyncClient]:
    async with server.async_client() as client:
        yield client


def test_the_cuts_leave_out_every_number_of_files() -> None:
    assert [certain(cut) for cut in (0, *map(len, PREFIXES))] == [0, 0, 0, 1, 2]
    assert certain(len(BODY) - 2) == possible(len(BODY) - 4) == 3


async def test_no_closing_boundary_or_a_body_cut_at_any_byte(server: Boatload, api: httpx.AsyncClient) -> None:
    async def try_cut(cut: int) -> None:
        url = await opened(api)
        answer = await exchange(server, f"{url}/uploads", BODY[:cut], len(BODY[:cut]))
        listed = await uploads(api, url)
        if cut >= len(BODY) - 2:
            assert answer.status_code == 201
            assert len(listed) == 3
            return
        if cut == 0:
            problem(answer, 400, "no-files")
            assert listed == []
            return
        body = problem(answer, 400, "truncated-multipart")
        results = body.get("results", [])
        kept = [result["upload"] for result in results]
        assert [result["index"] for result in results] == list(range(len(kept)))
        assert verdicts(results) == ["taken"] * len(kept)
        assert [upload["id"] for upload in kept] == [upload["id"] for upload in listed]
        check(cut, listed)

    await for_each_cut(try_cut)


async def test_content_length_short_then_close(server: Boatload, api: httpx.AsyncClient) -> None:
    urls: dict[int, str] = {}

    async def try_cut(cut: int) -> None:
        urls[cut] = await opened(api)
        async with connection(server.port) as (reader, writer):
            await begin(writer, f"{urls[cut]}/uploads", b"", expect="100-continue")
            assert b" 100 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)  # it is reading now
            writer.write(BODY[:cut])
            await asyncio.sleep(0.1)
            await break_off(writer, ENDINGS[cut % 3])
        async with asyncio.timeout(20):
            while len(await uploads(api, urls[cut])) < certain(cut):
                await asyncio.sleep(0.01)

    await for_each_cut(try_cut)
    for cut, url in urls.items():
        check(cut, await uploads(api, url))
        batch = (await api.get(url)).json()
        assert batch["total_uploads"] == len(await uploads(api, url))
        assert not batch["sealed"]


async def test_content_length_short_then_close_at_once(server: Boatload, api: httpx.AsyncClient) -> None:
    urls: dict[int, str] = {}

    async def try_cut(cut: int) -> None:
        urls[cut] = await opened(api)
        async with connection(server.port) as (_, writer):
            await begin(writer, f"{urls[cut]}/uploads", BODY[:cut])
            await break_off(writer, ENDINGS[cut % 3])

    await for_each_cut(try_cut)
    await asyncio.sleep(0.3)
    for cut, url in urls.items():
        check(cut, await uploads(api, url), least=0)


async def test_a_job_that_is_cut(server: Boatload, api: httpx.AsyncClient) -> None:
    cut = BODY[: len(PREFIXES[2]) + 10]
    body = problem(await exchange(server, "/v1/uploads", cut, len(cut)), 400, "truncated-multipart")
    assert [result["filename"] for result in body["results"]] == ["one", "two"]
    last = multipart(FILES[2], boundary=BOUNDARY)
    rest = await exchange(server, f"{body['url']}/uploads", last, len(last))
    assert rest.status_code == 201
    sealed = await api.post(f"{body['url']}/seal")
    assert sealed.json()["total_uploads"] == 3


def check(cut: int, listed: list[Json], *, least: int | None = None) -> None:
    """What is listed are the first files, whole, and as many as can be."""
    facts = [(upload["filename"], upload["size_bytes"], upload["sha256"]) for upload in listed]
    assert facts == [(file.filename, file.size, file.sha256) for file in FILES[: len(facts)]], cut
    assert (certain(cut) if least is None else least) <= len(facts) <= possible(cut), cut


async def for_each_cut(try_cut: Callable[[int], Awaitable[None]]) -> None:
    """A few at a time; the first that fails ends them all."""
    waiting = iter(CUTS)

    async def work() -> None:
        for cut in waiting:
            await try_cut(cut)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())


async def opened(api: httpx.AsyncClient) -> str:
    """The address of a new batch."""
    answer = await api.post("/v1/batches")
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


async def uploads(api: httpx.AsyncClient, url: str) -> list[Json]:
    answer = await api.get(f"{url}/uploads")
    assert answer.status_code == 200, answer.text
    items: list[Json] = answer.json()["items"]
    return items


async def exchange(server: Boatload, path: str, body: bytes, length: int) -> Answer:
    """Send a body, said to be of that length, and read the answer."""
    async with connection(server.port) as (reader, writer):
        head = request_head("POST", path, Content_Type=FORM["content-type"], Content_Length=length)
        writer.write(head + body)
        return await asyncio.wait_for(read_answer(reader), 20)


async def begin(writer: asyncio.StreamWriter, path: str, beginning: bytes, **headers: str) -> None:
    """Send the beginning of a request whose head promises all of BODY."""
    headers = {"Content_Type": FORM["content-type"], "Content_Length": str(len(BODY)), **headers}
    writer.write(request_head("POST", path, **headers) + beginning)
    await writer.drain()


async def break_off(writer: asyncio.StreamWriter, ending: str) -> None:
    """End the connection in one of the ways in which connections end; what `connection` does is the simplest."""
    if ending == "half-close":
        writer.write_eof()
        await asyncio.sleep(0.02)
    elif ending == "reset":
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
