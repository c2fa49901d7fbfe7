"""The edge by itself: uvicorn with our protocol, around small applications that say what reached them."""

import asyncio
import gc
import json
import socket
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.connection import CYCLE, hold
from app.api.deadlines import BodyDeadlines
from app.api.lingering import LINGER_BYTES
from app.api.protocol import protocol
from app.domain.request_errors import BrokenOffError
from tests.support.raw import answers, talk
from tests.support.wire import connection, read_answer, request_head

SECONDS: Final = 1.0
LEAST: Final = 1000
MOST: Final = 1 << 41
Act = Callable[[Scope, Receive], Awaitable[Any]]


def telling(act: Act) -> ASGIApp:
    """An application that answers what `act` returns, or what broke off meanwhile, as JSON."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            told = await act(scope, receive)
        except BrokenOffError as error:
            told = error.code
        body = json.dumps(told).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    return app


async def read_all(_scope: Scope, receive: Receive) -> list[int]:
    """Read the body, and return how many bytes came at a time."""
    sizes = []
    while True:
        message = await receive()
        sizes.append(len(message.get("body", b"")))
        if not message.get("more_body"):
            return sizes


async def not_read(_scope: Scope, _receive: Receive) -> str:
    return "not read"


@asynccontextmanager
async def serving(app: ASGIApp, *, seconds: float = SECONDS) -> AsyncIterator[int]:
    """Serve in this loop, and lend the port."""
    config = uvicorn.Config(
        BodyDeadlines(app, seconds=seconds, bytes_per_second=LEAST, max_bytes=MOST),
        port=0,
        http=protocol(head_seconds=seconds, unread_seconds=seconds, unread_bytes_per_second=LEAST),  # type: ignore[arg-type]
        timeout_keep_alive=seconds,  # type: ignore[arg-type]
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await running


async def told(port: int, *pieces: bytes, pause: float = 0.0) -> Any:  # noqa: ANN401 - what the application said
    (answer,) = await talk(port, *pieces, pause=pause)
    return answer.json()


def post(length: int, **headers: object) -> bytes:
    return request_head("POST", "/", Content_Length=length, **headers)


async def test_a_body_that_we_keep_waiting_is_not_late() -> None:
    """It takes longer than a client may, all of it with us."""

    async def reluctant(_scope: Scope, receive: Receive) -> int:
        total = 0
        while True:
            await asyncio.sleep(SECONDS / 4)
            message = await receive()
            total += len(message["body"])
            if not message["more_body"]:
                return total

    size = 2 << 20
    async with serving(telling(reluctant)) as port:
        assert await told(port, post(size), bytes(size)) == size


async def test_a_body_that_comes_slowly_but_fast_enough_is_read_to_its_end() -> None:
    """It takes longer than a stall may, and is never less than it must be."""
    pieces = [bytes(2 * LEAST) for _ in range(6)]
    async with serving(telling(read_all), seconds=4 * SECONDS) as port:
        sizes = await told(port, post(12 * LEAST), *pieces, pause=SECONDS)
    assert sum(sizes) == 12 * LEAST


async def test_a_body_that_trickles_too_slowly_breaks_off_when_it_has_had_its_time() -> None:
    """Each byte wins it a thousandth of a second, and it is a byte in each twentieth."""
    async with serving(telling(read_all)) as port:
        began = time.monotonic()
        assert await told(port, post(1000), *[b"x"] * 100, pause=SECONDS / 20) == "request-timeout"
        assert SECONDS <= time.monotonic() - began < 4 * SECONDS


async def test_a_body_that_stalls_has_the_time_that_it_has_won_and_no_more() -> None:
    async with serving(telling(read_all)) as port:
        began = time.monotonic()
        assert await told(port, post(1000), bytes(LEAST // 2), pause=SECONDS / 2) == "request-timeout"
        assert 1.4 * SECONDS <= time.monotonic() - began < 10 * SECONDS


async def test_a_request_that_is_over_leaves_no_clock_running() -> None:
    """It would keep the request in memory until it rings."""
    seen: list[weakref.ref[object]] = []

    async def reading(scope: Scope, receive: Receive) -> list[int]:
        seen.append(weakref.ref(scope[CYCLE]))
        return await read_all(scope, receive)

    async with serving(telling(reading), seconds=3600) as port:
        assert await told(port, post(2, Connection="close"), b"a", b"b", pause=0.1) == [1, 1]
        async with asyncio.timeout(20):
            while gc.collect() or seen[0]():
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("framing", [{"Content_Length": 100}, {"Transfer_Encoding": "chunked"}], ids=str)
async def test_a_body_that_stalls_breaks_off_behind_the_bytes_that_came(framing: dict[str, object]) -> None:
    async def reading(_scope: Scope, receive: Receive) -> list[object]:
        seen: list[object] = []
        try:
            while True:
                seen.append((await receive())["body"].decode())
        except BrokenOffError as error:
            return [*seen, error.code]

    begun = b"5\r\nhello\r\n" if "Transfer_Encoding" in framing else b"hello"
    async with serving(telling(reading)) as port:
        assert await told(port, request_head("POST", "/", **framing) + begun) == ["hello", "request-timeout"]


async def test_frames_without_bytes_are_no_body() -> None:
    """Extensions of chunks that keep coming, and never a chunk."""
    head = request_head("POST", "/", Transfer_Encoding="chunked")
    async with serving(telling(read_all)) as port:
        assert await told(port, head + b"5;", *[b"a=b;"] * 100, pause=SECONDS / 10) == "request-timeout"


async def test_what_waits_without_a_body_is_not_hurried() -> None:
    """An answer that waits until the client has gone, as a long poll does."""
    gone = asyncio.Event()

    async def waiting(scope: Scope, receive: Receive) -> str:
        hold(scope)
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()
        return ""

    async with serving(telling(waiting)) as port:
        async with connection(port) as (_, writer):
            writer.write(request_head("GET", "/"))
            await asyncio.sleep(3 * SECONDS)
            assert not gone.is_set()
        await asyncio.wait_for(gone.wait(), 20)


async def test_an_answer_that_is_not_read_is_cut() -> None:
    gone = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not scope[CYCLE].disconnected:
            await send({"type": "http.response.body", "body": bytes(65_536), "more_body": True})
        gone.set()

    async with serving(endless) as port, connection(port) as (_, writer):
        writer.transport.pause_reading()
        writer.write(request_head("GET", "/"))
        await asyncio.wait_for(gone.wait(), 60)


async def test_whoever_answers_is_told_that_the_client_has_gone_although_it_had_asked_for_more() -> None:
    gone: list[str] = []

    async def waiting(scope: Scope, receive: Receive) -> str:
        hold(scope)
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.append(scope["path"])
        return ""

    async with serving(telling(waiting)) as port:
        async with connection(port) as (_, writer):
            writer.write(request_head("GET", "/first") + request_head("GET", "/second"))
            await asyncio.sleep(SECONDS / 4)
            writer.transport.abort()
        async with asyncio.timeout(20):
            while gone != ["/first"]:
                await asyncio.sleep(0.05)


async def test_fields_behind_a_body_are_not_headers() -> None:
    async def fields(scope: Scope, receive: Receive) -> list[str]:
        await read_all(scope, receive)
        return [name.decode() for name, _ in scope["headers"]]

    head = request_head("POST", "/", Transfer_Encoding="chunked", Connection="close")
    async with serving(telling(fields)) as port:
        names = await told(port, head + b"2\r\n{}\r\n0\r\n", b"Authorization: a\r\n\r\n", pause=0.1)
    assert names == ["host", "transfer-encoding", "connection"]


@pytest.mark.parametrize(
    ("target", "said", "path"),
    [("http://b:80/c?d=e", "b:80", "/c?d=e"), ("http://b?d=e", "b", "/?d=e"), ("https://b", "b", "/")],
)
async def test_the_authority_of_the_target_is_the_host(target: str, said: str, path: str) -> None:
    async def hosts(scope: Scope, _receive: Receive) -> list[str]:
        where = [value.decode() for name, value in scope["headers"] if name == b"host"]
        return [*where, scope["path"] + "?" * bool(scope["query_string"]) + scope["query_string"].decode()]

    async with serving(telling(hosts)) as port:
        assert await told(port, request_head("GET", target, Connection="close")) == [said, path]


async def test_an_answer_is_heard_although_the_body_is_still_being_sent() -> None:
    """By a client that reads nothing before it has sent all."""
    size = LINGER_BYTES // 2
    async with serving(telling(not_read)) as port, connection(port) as (reader, writer):
        writer.write(post(size))
        for _ in range(size // 65_536):
            writer.write(bytes(65_536))
            await writer.drain()
        (answer,) = [answer async for answer in answers(reader)]
        assert answer.json() == "not read"
        assert answer.headers["connection"] == "close"


async def test_who_never_ends_sending_is_left_in_the_end() -> None:
    async def send_for_ever(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(bytes(65_536))
            await writer.drain()

    async with serving(telling(not_read)) as port, connection(port) as (reader, writer):
        writer.write(post(1 << 40))
        sending = asyncio.create_task(send_for_ever(writer))
        assert (await read_answer(reader)).json() == "not read"
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(sending, 60)


async def test_a_body_that_nobody_asks_for_stays_with_the_client() -> None:
    """What is read ahead of the application is one read at most, and crumbs before it, whatever is there."""
    arrived: list[int] = []

    async def late(scope: Scope, receive: Receive) -> int:
        await asyncio.sleep(SECONDS / 2)
        arrived.append(len(scope[CYCLE].body))
        return sum(await read_all(scope, receive))

    size = 8 << 20
    async with serving(telling(late)) as port:
        assert await told(port, post(size, Connection="close"), bytes(size)) == size
    assert arrived[0] <= (256 + 4) * 1024


async def test_what_is_more_than_crumbs_is_not_added_to_before_it_is_asked_for() -> None:
    read = asyncio.Event()

    async def late(scope: Scope, receive: Receive) -> list[int]:
        while not scope[CYCLE].body:
            await asyncio.sleep(0.01)
        read.set()
        await asyncio.sleep(SECONDS / 4)
        return await read_all(scope, receive)

    async with serving(telling(late)) as port, connection(port) as (reader, writer):
        writer.write(post(9000) + bytes(6000))
        await asyncio.wait_for(read.wait(), 20)
        writer.write(bytes(3000))
        assert (await read_answer(reader)).json() == [6000, 3000]


async def test_connections_are_kept_for_a_while_and_closed_then() -> None:
    async with serving(telling(not_read)) as port, connection(port) as (reader, writer):
        for _ in range(2):
            writer.write(request_head("GET", "/"))
            assert (await read_answer(reader)).json() == "not read"
            await asyncio.sleep(SECONDS / 4)
        assert await asyncio.wait_for(reader.read(), 20) == b""


async def test_line_ends_do_not_keep_a_connection() -> None:
    """They are no request, and end the wait for one only to begin another."""
    async with serving(telling(not_read)) as port, connection(port) as (reader, writer):
        writer.write(request_head("GET", "/"))
        assert (await read_answer(reader)).json() == "not read"
        writer.write(b"\r\n")
        assert (await asyncio.wait_for(read_answer(reader), 20)).status_code == 408
        assert await asyncio.wait_for(reader.read(), 20) == b""


async def test_a_message_type_of_its_own_passes() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing() -> Message:
        raise AssertionError

    async def nowhere(message: Message) -> None:
        raise AssertionError(message)

    await BodyDeadlines(app, seconds=1, bytes_per_second=1, max_bytes=1)({"type": "lifespan"}, nothing, nowhere)
    assert seen == ["lifespan"]


async def test_an_answer_of_one_piece_is_sent_as_one() -> None:
    def ask(port: int) -> list[bytes]:
        """What the first read of each answer brings, in a thread that waits for nothing else."""
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            return [client.recv(4096) for _ in range(200) if client.send(request_head("GET", "/"))]

    async with serving(telling(not_read)) as port:
        assert all(read.endswith(b'\r\n\r\n"not read"') for read in await asyncio.to_thread(ask, port))


async def test_a_head_does_not_wait_for_its_body() -> None:
    go_on = asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"body"})

    async with serving(app) as port, connection(port) as (reader, writer), asyncio.timeout(20):
        writer.write(request_head("GET", "/"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        go_on.set()
        assert await reader.readexactly(4) == b"body"
