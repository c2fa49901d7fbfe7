"""An HTTP client that is not the bottleneck: a body prepared before the clock starts goes straight to the socket."""

import hashlib
import http.client
import json
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

HOST: Final = "127.0.0.1"
READ_BYTES: Final = 1 << 20


class WrongAnswerError(Exception):
    """A server answered something other than what it was asked for; the message says what."""


@dataclass(frozen=True, slots=True)
class Body:
    """A prepared request body: `pieces` are sent one after the other and are `size_bytes` together."""

    content_type: str
    pieces: tuple[bytes, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, and the seconds from the first byte sent to the last byte received."""

    status: int
    body: bytes
    seconds: float


def multipart(files: Sequence[tuple[str, bytes]], *, field: str, boundary: str) -> Body:
    """Prepare `multipart/form-data` of (filename, content). Small files are joined; a big one is not copied."""
    pieces: list[bytes] = []
    pending = bytearray()
    for filename, content in files:
        pending += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{filename}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        if len(content) > READ_BYTES:
            pieces += [bytes(pending), content]
            pending.clear()
        else:
            pending += content
        pending += b"\r\n"
    pieces.append(bytes(pending) + f"--{boundary}--\r\n".encode())
    return Body(f"multipart/form-data; boundary={boundary}", tuple(pieces), sum(map(len, pieces)))


def post(port: int, path: str, body: Body, *, timeout_seconds: float) -> Answer:
    """Send `body` on a connection opened before the clock starts, and read the whole answer.

    A server that answers before it has read everything is heard. Raises OSError or http.client.HTTPException when
    there is no answer, TimeoutError when one step takes longer than `timeout_seconds`.
    """
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nAccept: application/json\r\n"
        f"Content-Type: {body.content_type}\r\nContent-Length: {body.size_bytes}\r\n\r\n"
    ).encode()
    with socket.create_connection((HOST, port), timeout=timeout_seconds) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started = time.perf_counter()
        try:
            connection.sendall(head)
            for piece in body.pieces:
                connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # an early refusal: its answer may still be there to read
        response = http.client.HTTPResponse(connection, method="POST")
        try:
            response.begin()
            content = response.read()
        finally:
            response.close()
        return Answer(response.status, content, time.perf_counter() - started)


def get_status(port: int, path: str, *, timeout_seconds: float) -> int | None:
    """Return the status of a GET, or None while nobody answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_seconds)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def get_json(port: int, path: str, *, timeout_seconds: float) -> Any:  # noqa: ANN401  # JSON is whatever it is
    """Return the JSON of a GET. Raises WrongAnswerError on any status but 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_seconds)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise WrongAnswerError(f"GET {path} answered {response.status}: {content[:500]!r}")
    return json.loads(content)


def get_sha256(port: int, path: str, *, timeout_seconds: float) -> str:
    """Return the hex SHA-256 of what a GET sends back. Raises WrongAnswerError on any status but 200."""
    digest = hashlib.sha256()
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_seconds)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        while chunk := response.read(READ_BYTES):
            digest.update(chunk)
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise WrongAnswerError(f"GET {path} answered {response.status}")
    return digest.hexdigest()
