"""One big file through two doors of the same server: by tus in pieces, and by a single PUT."""

import base64
import hashlib
import http.client
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from client import HOST, WrongAnswerError, get_sha256
from contenders import Boatload
from memory import MemoryMeter
from servers import Server
from workloads import POST_SECONDS, Measurement, wait_until_completed

_TUS: Final = {"Tus-Resumable": "1.0.0"}
_CREATED: Final = 201
_NO_CONTENT: Final = 204


class ByTus(Boatload):
    """The service, spoken to in tus."""

    title = "Boatload, by tus"


class ByPut(Boatload):
    """The service, given the whole file at once."""

    title = "Boatload, one PUT"


@dataclass(frozen=True, slots=True)
class Pieces:
    """One file of `file_bytes`, by tus in pieces of `piece_bytes`, and beside it by one PUT."""

    name: str
    title: str
    file_bytes: int
    piece_bytes: int

    @property
    def amount(self) -> float:
        """Return megabytes."""
        return self.file_bytes / 1e6

    @property
    def unit(self) -> str:
        """Return what `amount` counts."""
        return "MB"

    @property
    def disk_bytes(self) -> int:
        """Return the bytes of the file."""
        return self.file_bytes

    def seats(self, servers: Sequence[Server]) -> list[Server]:
        """Return our own server twice, once for each door; nothing where it does not take part."""
        return [
            replace(server, contender=door)
            for server in servers
            if isinstance(server.contender, Boatload)
            for door in (ByTus(), ByPut())
        ]

    def prepare(self) -> "PiecesJob":
        """Make a random file."""
        return PiecesJob(os.urandom(self.file_bytes), self.piece_bytes)


class PiecesJob:
    """One file, its digest known beforehand. Each door gets bytes that were never sent before: nothing is held."""

    def __init__(self, content: bytes, piece_bytes: int) -> None:
        self._content: Final = content
        self._piece_bytes: Final = piece_bytes

    def run(self, server: Server) -> Measurement:
        """Send it, wait until it is processed, and read it back."""
        by_tus = isinstance(server.contender, ByTus)
        content = memoryview(self._content)
        # The same length, and another first byte for each door.
        first = bytes([self._content[0] ^ by_tus])
        digest = hashlib.sha256(first)
        digest.update(content[1:])
        os.sync()
        port = server.seat.port
        with _connected(port) as connection, MemoryMeter(server.pid) as meter:
            batch = open_batch(port)
            started = time.perf_counter()
            send = self._send_pieces if by_tus else self._send_whole
            upload_id = send(connection, batch, first, content)
            seconds = time.perf_counter() - started
            post_empty(port, f"{batch}/seal")
            processing_seconds = wait_until_completed(port, batch)
        path = server.contender.content_path(upload_id)
        if (found := get_sha256(port, path, timeout_seconds=POST_SECONDS)) != digest.hexdigest():
            raise WrongAnswerError(f"{path} sends back {found} instead of {digest.hexdigest()}")
        return Measurement(seconds, processing_seconds, meter.peak_bytes)

    def _send_pieces(self, connection: socket.socket, batch: str, first: bytes, content: memoryview) -> str:
        batch_id = batch.rpartition("/")[2].encode()
        named = {
            "Upload-Metadata": f"batch_id {base64.b64encode(batch_id).decode()}",
            "Upload-Length": str(len(content)),
        }
        _, headers, _ = _ask(connection, "POST", "/v1/tus", _TUS | named, [], expected=_CREATED)
        url = urlsplit(headers["location"]).path
        for start in range(0, len(content), self._piece_bytes):
            piece = content[start : start + self._piece_bytes]
            fields = _TUS | {"Upload-Offset": str(start), "Content-Type": "application/offset+octet-stream"}
            body = [piece] if start else [memoryview(first), piece[1:]]
            _ask(connection, "PATCH", url, fields, body, expected=_NO_CONTENT)
        return url.rpartition("/")[2]

    def _send_whole(self, connection: socket.socket, batch: str, first: bytes, content: memoryview) -> str:
        fields = {"Content-Type": "application/octet-stream"}
        body = [memoryview(first), content[1:]]
        _, _, answer = _ask(connection, "PUT", f"{batch}/files/big.bin", fields, body, expected=_CREATED)
        upload_id: str = json.loads(answer)["id"]
        return upload_id


@contextmanager
def _connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, port), timeout=POST_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def _ask(
    connection: socket.socket,
    method: str,
    path: str,
    fields: Mapping[str, str],
    body: Sequence[memoryview],
    *,
    expected: int,
) -> tuple[int, dict[str, str], bytes]:
    """Ask on a connection that stays open; nothing is copied on its way to the socket."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", f"Content-Length: {sum(map(len, body))}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    for piece in body:
        connection.sendall(piece)
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        content = response.read()
    finally:
        response.close()
    if response.status != expected:
        raise WrongAnswerError(f"{method} {path} answered {response.status}: {content[:500]!r}")
    return response.status, {name.lower(): value for name, value in response.getheaders()}, content


def open_batch(port: int) -> str:
    """Open a batch; return its path. Raises WrongAnswerError."""
    url: str = json.loads(post_empty(port, "/v1/batches"))["url"]
    return url


def post_empty(port: int, path: str) -> bytes:
    """POST without a body; return the answer's. Raises WrongAnswerError where it is refused."""
    connection = http.client.HTTPConnection(HOST, port, timeout=POST_SECONDS)
    try:
        connection.request("POST", path)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status >= http.client.BAD_REQUEST:
        raise WrongAnswerError(f"POST {path} answered {response.status}: {content[:500]!r}")
    return content
