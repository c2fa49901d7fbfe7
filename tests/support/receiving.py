"""Multipart bodies byte by byte, and what becomes of them short of the database."""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, Protocol

from app.api.multipart import MultipartBody
from app.domain.errors import BoatloadError
from app.domain.ids import new_id
from app.domain.limits import Limits
from app.ingest.arrival import Arrival
from app.ingest.receive import Reception
from app.storage.base import Store

BOUNDARY: Final = b"the-boundary"
LIMITS: Final = Limits(
    max_file_bytes=1 << 30,
    max_request_bytes=1 << 30,
    max_parts=1000,
    max_files_per_batch=1000,
    pack_file_bytes=1024,
    batch_lifetime=timedelta(days=1),
)


@dataclass(frozen=True, slots=True)
class Taken:
    """A file part that came to its end."""

    filename: str
    content: bytes | None
    """None where it was refused."""
    sha256: bytes
    content_type: str | None
    refusal: str | None
    """The code of why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a body."""

    error: str | None
    """The code of what is wrong with it."""
    files: tuple[Taken, ...]
    fields: tuple[tuple[str, str], ...]
    begun: int
    """How many file parts began."""

    @property
    def contents(self) -> list[bytes | None]:
        return [file.content for file in self.files]

    @property
    def names(self) -> list[str]:
        return [file.filename for file in self.files]


def part(content: bytes = b"content", *, disposition: bytes | None = None, headers: bytes = b"", **named: str) -> bytes:
    """A part without its boundary; `named`: `name` and `filename`, written as they stand between quotes."""
    if disposition is None:
        parameters = {"name": "files"} | named
        disposition = b"form-data" + b"".join(f'; {key}="{value}"'.encode() for key, value in parameters.items())
    return b"Content-Disposition: " + disposition + b"\r\n" + headers + b"\r\n" + content


def message(*parts: bytes, boundary: bytes = BOUNDARY, end: bytes = b"\r\n") -> bytes:
    """A whole body of these parts."""
    begin = b"--" + boundary + b"\r\n"
    return b"".join(begin + one + b"\r\n" for one in parts) + b"--" + boundary + b"--" + end


def make_reception(store: Store, hashers: Executor, **limits: Any) -> Reception:  # noqa: ANN401 - fields of Limits
    """A reception of its own limits."""
    return Reception(store=store, limits=replace(LIMITS, **limits), new_id=new_id, hashers=hashers)


def content_of(store: Store, arrival: Arrival) -> bytes | None:
    """The bytes of a file, wherever they are, checked against its size."""
    if arrival.refusal:
        assert (arrival.pieces, arrival.writer) == ([], None)
        return None
    if arrival.writer is None:
        content = b"".join(arrival.pieces)
    else:
        assert arrival.pieces == []
        assert arrival.writer.size_bytes == arrival.size_bytes
        reader = store.open(arrival.writer.object_id)
        content = reader.read(0, arrival.size_bytes)
        reader.close()
    assert len(content) == arrival.size_bytes
    return content


class Feeding(Protocol):
    """Whatever a body is fed through."""

    def feed(self, data: bytes) -> None: ...

    def finish(self) -> None: ...


def take(
    chunks: Iterable[bytes],
    *,
    store: Store,
    hashers: Executor,
    boundary: bytes = BOUNDARY,
    feeding: Callable[[MultipartBody, Reception], Feeding] = lambda body, _: body,
    **limits: Any,  # noqa: ANN401 - fields of Limits
) -> Outcome:
    """Feed a body to its end or its fault, look at what is ready, and give it all up."""
    reception = make_reception(store, hashers, **limits)
    body = feeding(MultipartBody(boundary, reception, max_parts=limits.get("max_parts", LIMITS.max_parts)), reception)
    code = None
    try:
        for chunk in chunks:
            body.feed(chunk)
        body.finish()
    except BoatloadError as error:
        code = error.code
    files = tuple(
        Taken(
            arrival.filename,
            content_of(store, arrival),
            arrival.sha256,
            arrival.content_type,
            arrival.refusal.code if arrival.refusal else None,
        )
        for arrival in reception.ready
    )
    assert [arrival.index for arrival in reception.ready] == list(range(len(files)))
    reception.abandon()
    return Outcome(code, files, tuple(reception.fields.items()), reception.files)
