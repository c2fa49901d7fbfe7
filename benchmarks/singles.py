"""Small files, one in each request, over connections that stay open: by PUT here, by a form with one part at a peer."""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import uvloop
from client import HOST, Answer, WrongAnswerError, get_sha256, multipart
from contenders import Boatload, Contender, StoredFile
from databases import count_uploads
from doors import open_batch, post_empty
from memory import MemoryMeter
from servers import Server
from workloads import POST_SECONDS, Measurement, wait_until_completed

_CREATED: Final = 201
_HEAD_END: Final = b"\r\n\r\n"
_PEER: Final = "uploadfile"


@dataclass(frozen=True, slots=True)
class Singles:
    """`file_count` files of `file_bytes`, each a request of its own, over `connections`."""

    name: str
    title: str
    file_count: int
    file_bytes: int
    connections: int

    @property
    def amount(self) -> float:
        """Return files."""
        return self.file_count

    @property
    def unit(self) -> str:
        """Return what `amount` counts."""
        return "files"

    @property
    def disk_bytes(self) -> int:
        """Return the bytes of all files, a block of the disk each."""
        return self.file_count * max(self.file_bytes, 4096)

    def seats(self, servers: Sequence[Server]) -> list[Server]:
        """Return ourselves and the peer that syncs; with one file a request its variants are the same."""
        return [one for one in servers if isinstance(one.contender, Boatload) or one.contender.name == _PEER]

    def prepare(self) -> "SinglesJob":
        """Make random files."""
        return SinglesJob([os.urandom(self.file_bytes) for _ in range(self.file_count)], self.connections)


class SinglesJob:
    """The files of one round. Requests are laid out before the clock starts, answers read when it has stopped."""

    def __init__(self, contents: list[bytes], connections: int) -> None:
        self._contents: Final = contents
        self._connections: Final = connections
        self._digests: Final = [hashlib.sha256(content).hexdigest() for content in contents]

    def run(self, server: Server) -> Measurement:
        """Send them, wait until they are processed, compare every answer, the rows, and a file that is read back."""
        contender, port = server.contender, server.seat.port
        ours = isinstance(contender, Boatload)
        batch = open_batch(port) if ours else None
        requests = [
            _put(f"{batch}/files/{number}", content) if batch else _form(contender, number, content)
            for number, content in enumerate(self._contents)
        ]
        rows_before = count_uploads(server.seat.dsn)
        os.sync()
        with MemoryMeter(server.pid) as meter:
            seconds, answers = uvloop.run(_send_all(port, requests, self._connections))
            if batch:
                post_empty(port, f"{batch}/seal")
            processing_seconds = wait_until_completed(port, batch) if batch else None
        stored = [_stored(contender, body) for body in answers]
        wanted = [(len(content), digest) for content, digest in zip(self._contents, self._digests, strict=True)]
        if [(one.size_bytes, one.sha256) for one in stored] != wanted:
            raise WrongAnswerError("not every answer has the size and digest of what was sent")
        if (rows := count_uploads(server.seat.dsn) - rows_before) != len(stored):
            raise WrongAnswerError(f"{rows} rows were added for {len(stored)} files")
        path = contender.content_path(stored[-1].upload_id)
        if (found := get_sha256(port, path, timeout_seconds=POST_SECONDS)) != self._digests[-1]:
            raise WrongAnswerError(f"{path} sends back {found} instead of {self._digests[-1]}")
        return Measurement(seconds, processing_seconds, meter.peak_bytes)


def _put(path: str, content: bytes) -> bytes:
    return (
        b"PUT %b HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n"
        % (
            path.encode(),
            HOST.encode(),
            len(content),
        )
        + content
    )


def _form(contender: Contender, number: int, content: bytes) -> bytes:
    body = multipart([(f"{number}.bin", content)], field="files", boundary=f"boatload-{os.urandom(16).hex()}")
    head = (
        f"POST {contender.upload_path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {body.content_type}\r\n"
        f"Content-Length: {body.size_bytes}\r\n\r\n"
    )
    return b"".join([head.encode(), *body.pieces])


def _stored(contender: Contender, body: bytes) -> StoredFile:
    if not isinstance(contender, Boatload):
        (stored,) = contender.receipt(Answer(_CREATED, body, 0)).files
        return stored
    upload = json.loads(body)
    return StoredFile(upload["id"], upload["size_bytes"], upload["sha256"])


async def _send_all(port: int, requests: Sequence[bytes], connections: int) -> tuple[float, list[bytes]]:
    """Send each request when a connection is free; return the seconds that took, and the bodies of the answers."""
    bodies = [b""] * len(requests)
    left = iter(range(len(requests)))
    streams = [await asyncio.open_connection(HOST, port) for _ in range(connections)]
    started = time.perf_counter()
    async with asyncio.timeout(POST_SECONDS):
        await asyncio.gather(*(_send(reader, writer, requests, left, bodies) for reader, writer in streams))
    seconds = time.perf_counter() - started
    for _, writer in streams:
        writer.close()
    return seconds, bodies


async def _send(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    requests: Sequence[bytes],
    left: Iterator[int],
    bodies: list[bytes],
) -> None:
    for number in left:
        writer.write(requests[number])
        head = (await reader.readuntil(_HEAD_END)).lower()
        length = int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0] or 0)
        bodies[number] = await reader.readexactly(length)
        if int(head.split(maxsplit=2)[1]) != _CREATED:
            raise WrongAnswerError(f"{head!r} {bodies[number][:500]!r}")
