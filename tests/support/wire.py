"""Speaking to the service: bodies as a browser or curl makes them, answers off a bare socket, and polling."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

BOUNDARY: Final = "----a-boundary-of-the-tests"
CONTENT_TYPE: Final = f"multipart/form-data; boundary={BOUNDARY}"
FORM: Final = {"content-type": CONTENT_TYPE}
FINAL: Final = frozenset({"completed", "failed", "cancelled"})
PROBLEM: Final = "application/problem+json"
_CHUNK_BYTES: Final = 128 * 1024

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class File:
    """One file part. `filename` is written as it stands, between quotes."""

    filename: str | bytes
    data: bytes | Path = b""
    content_type: str | None = "application/octet-stream"
    name: str = "files"

    @property
    def head(self) -> bytes:
        filename = self.filename if isinstance(self.filename, bytes) else self.filename.encode()
        lines = b'Content-Disposition: form-data; name="%b"; filename="%b"\r\n' % (self.name.encode(), filename)
        return lines + (f"Content-Type: {self.content_type}\r\n".encode() if self.content_type else b"") + b"\r\n"

    @property
    def size(self) -> int:
        return self.data.stat().st_size if isinstance(self.data, Path) else len(self.data)

    @property
    def sha256(self) -> str:
        if isinstance(self.data, bytes):
            return hashlib.sha256(self.data).hexdigest()
        with self.data.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Text:
    """One text field."""

    name: str
    value: str

    @property
    def head(self) -> bytes:
        return f'Content-Disposition: form-data; name="{self.name}"\r\n\r\n'.encode()

    @property
    def data(self) -> bytes:
        return self.value.encode()

    @property
    def size(self) -> int:
        return len(self.data)


Part = File | Text


def stream(parts: Iterable[Part], boundary: str = BOUNDARY) -> Iterator[bytes]:
    """The body in pieces, files read as they are needed."""
    for part in parts:
        yield b"--" + boundary.encode() + b"\r\n" + part.head
        if isinstance(part.data, bytes):
            yield part.data
        else:
            with part.data.open("rb") as opened:
                while piece := opened.read(_CHUNK_BYTES):
                    yield piece
        yield b"\r\n"
    yield b"--" + boundary.encode() + b"--\r\n"


def multipart(*parts: Part, boundary: str = BOUNDARY) -> bytes:
    """The whole body."""
    return b"".join(stream(parts, boundary))


def length(parts: Sequence[Part], boundary: str = BOUNDARY) -> int:
    """How long `stream` will be."""
    frame = len(boundary) + 4
    return sum(frame + len(part.head) + part.size + 2 for part in parts) + frame + 2


def send(client: httpx.Client, path: str, *parts: Part, **headers: str) -> httpx.Response:
    """POST the parts in one body of known length."""
    return client.post(path, content=multipart(*parts), headers=FORM | headers)


def finished(client: httpx.Client, batch_url: str, *, seconds: float = 30) -> Json:
    """Poll a batch until it is in a final state, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        answer = client.get(batch_url)
        assert answer.status_code == httpx.codes.OK, answer.text
        batch: Json = answer.json()
        if batch["status"] in FINAL:
            return batch
        assert time.monotonic() < deadline, f"still not finished: {batch}"
        time.sleep(0.05)


def counts(batch: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Total, processed, successful, failed."""
    return (batch["total_uploads"], batch["processed_uploads"], batch["successful_uploads"], batch["failed_uploads"])


def all_uploads(client: httpx.Client, batch_url: str, *, limit: int = 1000) -> list[Json]:
    """Every upload of a batch, page by page."""
    return everything(client, f"{batch_url}/uploads?limit={limit}")


def everything(client: httpx.Client, url: str) -> list[Json]:
    """Every item of a list, page by page, by its Link headers."""
    found: list[Json] = []
    following: str | None = url
    while following:
        answer = client.get(following)
        assert answer.status_code == httpx.codes.OK, answer.text
        found += answer.json()["items"]
        following = answer.links.get("next", {}).get("url")
        assert (following is None) == (answer.json()["next_cursor"] is None)
    return found


def problem(answer: "httpx.Response | Answer", status: int, slug: str) -> Json:
    """The problem that an answer holds, checked to be one (RFC 9457 §3)."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    body: Json = answer.json()
    assert body["type"] == f"/problems/{slug}", body
    assert body["status"] == status
    assert isinstance(body["title"], str)
    assert body["title"]
    assert isinstance(body["detail"], str)
    assert body["detail"]
    return body


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, off a bare socket; header names in lower case."""

    status_code: int
    headers: dict[str, str]
    content: bytes = field(repr=False)

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def json(self) -> Any:  # noqa: ANN401 - whatever was sent
        return json.loads(self.content)


def request_head(method: str, path: str, **headers: object) -> bytes:
    """The head of a request; underscores in names become dashes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection, closed on the way out if it still is open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read one response of known length. Raises IncompleteReadError where the connection ends before it does."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    content = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(status.split()[1]), headers, content)


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event. A comment has no name and no data."""

    name: str
    data: Any
    id: str
    """The last event id once this one has been taken."""


class EventReader:
    """Reads an event stream off a bare connection, as an EventSource does (WHATWG HTML §9.2.6)."""

    def __init__(self, reader: asyncio.StreamReader, last_id: str = "") -> None:
        self._reader: Final = reader
        self._pending = b""
        self.last_id = last_id
        self.status = 0
        self.headers: dict[str, str] = {}
        self.comments = 0
        self.retry: int | None = None

    async def open(self) -> int:
        """Read the head of the answer, and return its status."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.split("\r\n")
        self.headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in fields if one)}
        self.status = int(line.split()[1])
        return self.status

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Yield the events until the response ends. Raises IncompleteReadError where the connection ends before."""
        assert self.headers["transfer-encoding"] == "chunked"
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            self._pending += (await self._reader.readexactly(size + 2))[:-2]
            *blocks, self._pending = self._pending.split(b"\n\n")
            for block in blocks:
                event = self._take(block.decode())
                if event:
                    yield event
        assert not self._pending, "the response ended in the middle of an event"

    def _take(self, block: str) -> Event | None:
        name, data = "message", []
        for line in block.split("\n"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            match field:
                case "":
                    self.comments += 1
                case "event":
                    name = value
                case "data":
                    data.append(value)
                case "id":
                    self.last_id = value
                case "retry":
                    self.retry = int(value)
                case _:
                    raise AssertionError(line)
        return Event(name, json.loads("\n".join(data)), self.last_id) if data else None


@asynccontextmanager
async def following(port: int, path: str, **headers: object) -> AsyncIterator[EventReader]:
    """An event stream of the service, its head read."""
    async with connection(port) as (reader, writer):
        writer.write(request_head("GET", path, Accept="text/event-stream", **headers))
        events = EventReader(reader, str(headers.get("Last_Event_ID", "")))
        await events.open()
        yield events


def verdicts(results: list[Json]) -> list[str]:
    """`taken` or `rejected` for each result: whether bytes were there already depends on the tests before."""
    taken = {"stored": "taken", "duplicate": "taken", "rejected": "rejected"}
    return [taken[result["status"]] for result in results]
