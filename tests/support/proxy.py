"""A TCP proxy between a client and a server: counts the files that pass, and can be cut."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Final

from python_multipart.multipart import MultipartParser

_CHUNK: Final = 64 * 1024
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_BOUNDARY: Final = re.compile(rb"\r\ncontent-type: *multipart/form-data; *boundary=([^\r]+)", re.IGNORECASE)


class Proxy:
    """Listens on a port of its own for as long as it is used. Its numbers may be read from any thread."""

    def __init__(self, target: int) -> None:
        self.target = target
        """The port that new connections go to; may be moved."""
        self.port = 0
        self.file_bytes = 0
        """Bytes of files that were passed on: bodies of PUT requests, and what is in the parts of multipart ones."""
        self.files = 0
        """Files that were begun."""
        self.requests = 0
        """Requests that they came in."""
        self.lost_bytes = 0
        """Those of the bytes whose requests were never answered."""
        self.cut_at: int | None = None
        """Once that many bytes of files were passed on, everything is cut."""
        self.slow_from: int | None = None
        """Once that many bytes of files were passed on, each connection passes on 6 MB a second at most."""
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
        mine, requests = {writer, onward}, Requests(self)
        self._writers |= mine
        try:
            await asyncio.gather(self._pass_on(reader, onward, requests), self._pass_back(there, writer, requests))
        except OSError:
            pass
        finally:
            self.lost_bytes += requests.unanswered_bytes
            self._writers -= mine
            for one in mine:
                one.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: "Requests") -> None:
        while data := await reader.read(_CHUNK):
            if self.slow_from is not None and self.file_bytes >= self.slow_from:
                await asyncio.sleep(0.01)
            requests.feed(data)
            writer.write(data)
            await writer.drain()
            if self.cut_at is not None and self.file_bytes >= self.cut_at:
                self.is_cut = True
                self._break()
        with suppress(OSError):
            writer.write_eof()

    async def _pass_back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: "Requests"
    ) -> None:
        while data := await reader.read(_CHUNK):
            requests.unanswered_bytes = 0
            writer.write(data)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()


class Requests:
    """Reads along the requests of one connection, whose bodies have a Content-Length."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy: Final = proxy
        self._head = b""
        self._left = 0
        self._is_put = False
        self._parts: MultipartParser | None = None
        self.unanswered_bytes = 0

    def feed(self, data: bytes) -> None:
        while data:
            if self._left:
                body, data = data[: self._left], data[self._left :]
                self._left -= len(body)
                if self._is_put:
                    self._count(len(body))
                elif self._parts:
                    self._parts.write(body)
                continue
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                return
            self._head = b""
            self._begin(head)

    def _begin(self, head: bytes) -> None:
        boundary, length = _BOUNDARY.search(head), _LENGTH.search(head)
        self._is_put = head.startswith(b"PUT ")
        self._parts = self._parser(boundary[1]) if boundary else None
        self._left = int(length[1]) if length else 0
        self._proxy.files += self._is_put
        self._proxy.requests += self._is_put or boundary is not None

    def _parser(self, boundary: bytes) -> MultipartParser:
        def begin() -> None:
            self._proxy.files += 1

        def count(_data: bytes, start: int, end: int) -> None:
            self._count(end - start)

        return MultipartParser(boundary, {"on_part_begin": begin, "on_part_data": count})

    def _count(self, size: int) -> None:
        self._proxy.file_bytes += size
        self.unanswered_bytes += size


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
