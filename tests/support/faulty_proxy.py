"""A proxy in front of a server that lets some requests go wrong, the way networks and servers let them."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

_PIECE_BYTES: Final = 16 * 1024
_HEAD_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls the next request of `method`; exactly one of the others says what."""

    method: str
    status: int | None = None
    """It is answered with this, and never reaches the server."""
    cut_after: int | None = None
    """Both connections end when so many bytes of its body have passed."""
    lose_answer: bool = False
    """It reaches the server and is carried out, and its connection ends without an answer."""


@dataclass(slots=True)
class Proxy:
    """Where it listens, the faults that are to come, in order, and the requests that came."""

    port: int = 0
    faults: list[Fault] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    """Method, and what became of it: `PATCH cut`, `PATCH 423`, `PATCH lost`, `PATCH passed`."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self, method: str) -> Fault | None:
        """The fault that is next, if it is for this method."""
        for index, fault in enumerate(self.faults):
            if fault.method == method:
                return self.faults.pop(index)
        return None


@contextmanager
def faulty_proxy(server_port: int, *faults: Fault) -> Iterator[Proxy]:
    """Run one in a thread of its own for the length of the block. It takes one request a connection."""
    proxy = Proxy(faults=list(faults))
    ready, ending = threading.Event(), threading.Event()

    async def serve() -> None:
        # The loop forgets a connection whose client is done sending, and with it whoever waits for the server's answer.
        handling: set[asyncio.Task[None] | None] = set()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            handling.add(task := asyncio.current_task())
            try:
                with suppress(ConnectionError, asyncio.IncompleteReadError):
                    await _handle(proxy, server_port, reader, writer)
            finally:
                writer.close()
                handling.discard(task)
            with suppress(ConnectionError):
                await writer.wait_closed()

        listening = await asyncio.start_server(handle, "127.0.0.1", 0, limit=_HEAD_BYTES)
        proxy.port = listening.sockets[0].getsockname()[1]
        ready.set()
        async with listening:
            await asyncio.to_thread(ending.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="faulty proxy", daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield proxy
    finally:
        ending.set()
        thread.join(10)


async def _handle(proxy: Proxy, server_port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    method = head.split(b" ", 1)[0].decode()
    fault = proxy.take(method)
    if fault and fault.status:
        proxy.seen.append(f"{method} {fault.status}")
        answer = f"HTTP/1.1 {fault.status} Made Up\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        writer.write(answer.encode())
        await writer.drain()
        writer.write_eof()
        while await reader.read(_PIECE_BYTES):
            pass
        return
    upstream, to_server = await asyncio.open_connection("127.0.0.1", server_port, limit=_HEAD_BYTES)
    try:
        to_server.write(_closing(head))
        sending = asyncio.create_task(_send(reader, to_server, fault.cut_after if fault else None))
        answering = asyncio.create_task(_answer(upstream, writer, lose=bool(fault and fault.lose_answer)))
        done, _ = await asyncio.wait([sending, answering], return_when=asyncio.FIRST_COMPLETED)
        if sending in done and not sending.cancelled() and sending.exception() is None and sending.result():
            proxy.seen.append(f"{method} cut")
            answering.cancel()
        else:
            await asyncio.wait([answering])
            proxy.seen.append(f"{method} {'lost' if fault else 'passed'}")
            sending.cancel()
        # A connection that breaks on the way is what this is for; nobody else asks what became of these.
        await asyncio.gather(sending, answering, return_exceptions=True)
    finally:
        to_server.close()
        with suppress(ConnectionError):
            await to_server.wait_closed()


async def _send(reader: asyncio.StreamReader, to_server: asyncio.StreamWriter, cut_after: int | None) -> bool:
    """Pass the body on; return True where it is to be cut now."""
    left = cut_after
    if left == 0:
        return True
    while piece := await reader.read(_PIECE_BYTES if left is None else min(left, _PIECE_BYTES)):
        to_server.write(piece)
        await to_server.drain()
        if left is not None:
            left -= len(piece)
            if left <= 0:
                return True
    return False


async def _answer(upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, *, lose: bool) -> None:
    head = await upstream.readuntil(b"\r\n\r\n")
    if lose:
        while await upstream.read(_PIECE_BYTES):
            pass
        return
    writer.write(_closing(head))
    while piece := await upstream.read(_PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    await writer.drain()


def _closing(head: bytes) -> bytes:
    """The head with `Connection: close`, so that each request has a connection of its own."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    kept = [line for line in lines if not line.lower().startswith((b"connection:", b"keep-alive:"))]
    return b"\r\n".join([first, *kept, b"Connection: close", b"", b""])
