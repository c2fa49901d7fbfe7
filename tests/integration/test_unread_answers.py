"""Clients that do not read what they asked for, or slowly: around a small application, by our protocol alone."""

import asyncio
import socket
from contextlib import AsyncExitStack, closing

import psutil
from starlette.types import Receive, Scope, Send

from tests.integration.test_protocol import SECONDS, serving
from tests.support.wire import request_head

_CHUNK = 256 * 1024


async def large(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer with as many bytes as the path says."""
    left = int(scope["path"][1:])
    head = [(b"content-length", b"%d" % left)]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    while left:
        size = min(left, _CHUNK)
        left -= size
        await send({"type": "http.response.body", "body": bytes(size), "more_body": left > 0})


def open_at(port: int) -> int:
    """How many connections the server has."""
    return sum(one.laddr.port == port and one.status != "LISTEN" for one in psutil.Process().net_connections("tcp"))


async def ask(port: int, size: int) -> socket.socket:
    """Ask for so many bytes, on a socket that takes few by itself."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    client.settimeout(0)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, request_head("GET", f"/{size}"))
    return client


async def test_whoever_reads_all_the_time_is_served_however_slowly() -> None:
    """The system takes what is answered from us in steps of a megabyte: for seconds nothing seems to move."""
    size = 6 << 20
    async with serving(large) as port:
        with closing(await ask(port, size)) as client:
            loop = asyncio.get_running_loop()
            received, until = 0, loop.time() + 6 * SECONDS
            while received < size:
                piece = await loop.sock_recv(client, 16_384)
                assert piece, f"cut after {received} bytes"
                received += len(piece)
                if loop.time() < until:
                    await asyncio.sleep(0.05)


async def test_an_answer_that_nobody_reads_keeps_no_connection() -> None:
    """Whatever is left of it, and whether we had to wait with it or had given all of it away."""
    async with serving(large) as port, AsyncExitStack() as clients:
        for step in range(64):
            clients.enter_context(closing(await ask(port, (3 << 20) + step * 48 * 1024)))
        assert open_at(port) > 32
        await asyncio.sleep(3 * SECONDS)
        assert open_at(port) == 0
