"""A TCP proxy between a client and a server: counts what is PUT, and can be cut."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Final

_CHUNK: Final = 64 * 1024
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


class Proxy:
    """Listens on a port of its own for as long as it is used. Its numbers may be read from any thread."""

    def __init__(self, target: int) -> None:
        self.target = target
        """The port that new connections go to; may be moved."""
        self.port = 0
        self.put_bytes = 0
        """Bytes of bodies of PUT requests that were passed on."""
        self.puts = 0
        """PUT requests that were begun."""
        self.cut_at: int | None = None
        """Once that many bytes were PUT, everything is cut."""
        self.slow_from: int | None = None
        """Once that many bytes were PUT, each connection passes on 6 MB a second at most."""
        self.is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break every connection, and take no more until `mend`."""
        assert self._loop is not None
        self.is_cut = True
        self._loop.call_soon_threadsafe(self._break)

    def mend(self) -> None:
        self.cut_at = None
        self.is_cut = False

    def run(self, ready: Event, stop: Event) -> None:
        asyncio.run(self._run(ready, stop))

    async def _run(self, ready: Event, stop: Event) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        while not stop.is_set():
            await asyncio.sleep(0.05)
        server.close()
        self._break()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _break(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.transport.abort()
            return
        try:
            there, onward = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        mine = {writer, onward}
        self._writers |= mine
        try:
            await asyncio.gather(self._pass(reader, onward, Requests(self)), self._pass(there, writer, None))
        except OSError:
            pass
        finally:
            self._writers -= mine
            for one in mine:
                one.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: "Requests | None"
    ) -> None:
        while data := await reader.read(_CHUNK):
            if requests:
                if self.slow_from is not None and self.put_bytes >= self.slow_from:
                    await asyncio.sleep(0.01)
                requests.feed(data)
            writer.write(data)
            await writer.drain()
            if requests and self.cut_at is not None and self.put_bytes >= self.cut_at:
                self.is_cut = True
                self._break()
        with suppress(OSError):
            writer.write_eof()


class Requests:
    """Reads along the requests of one connection, whose bodies have a Content-Length."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy: Final = proxy
        self._head = b""
        self._left = 0
        self._is_put = False

    def feed(self, data: bytes) -> None:
        while data:
            if self._left:
                body, data = data[: self._left], data[self._left :]
                self._left -= len(body)
                if self._is_put:
                    self._proxy.put_bytes += len(body)
                continue
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                return
            self._head = b""
            self._is_put = head.startswith(b"PUT ")
            self._proxy.puts += self._is_put
            length = _LENGTH.search(head)
            self._left = int(length[1]) if length else 0


@contextmanager
def proxied(target: int) -> Iterator[Proxy]:
    """A proxy before that port."""
    proxy, ready, stop = Proxy(target), Event(), Event()
    thread = Thread(target=proxy.run, args=(ready, stop))
    thread.start()
    try:
        assert ready.wait(10)
        yield proxy
    finally:
        stop.set()
        thread.join(10)
