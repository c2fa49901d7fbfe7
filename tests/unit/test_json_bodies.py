"""How much JSON may hold: what it costs grows with its values, not with its bytes."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fastapi import Request
from starlette.types import Message

from app.api.body import MAX_COMMAS, has_many_values, read_body
from app.api.schemas import Manifest
from app.domain.errors import StorageUnavailableError
from app.domain.limits import MAX_MANIFEST_ENTRIES

NAME = 'a,"b",\\,c'


def test_the_longest_manifest_passes_whatever_its_names_are() -> None:
    entry = {"filename": NAME, "size_bytes": 1, "sha256": "a" * 64, "content_type": "text/plain"}
    entries = [{"ref": f"{NAME}{number}"} | entry for number in range(MAX_MANIFEST_ENTRIES)]
    body = json.dumps({"entries": entries, "seal": True}).encode()
    assert body.count(b",") > MAX_COMMAS
    assert not has_many_values(body)
    assert len(Manifest.model_validate_json(body).entries) == MAX_MANIFEST_ENTRIES


@pytest.mark.parametrize("value", [b"0", b'""', b'"a,b"', b"{}", b'{"a":0}', b'"\\""'])
def test_more_values_than_any_body_needs_are_too_many(value: bytes) -> None:
    assert not has_many_values(b"[" + b",".join([value] * (MAX_COMMAS + 1)) + b"]")
    assert has_many_values(b"[" + b",".join([value] * (MAX_COMMAS + 2)) + b"]")


@pytest.mark.timeout(10)
@pytest.mark.parametrize("repeated", [b'"', b'\\"', b'"\\', b'""', b"\\", b',"', b'","', b'"\\"'])
def test_what_is_no_json_takes_no_longer(repeated: bytes) -> None:
    for start in (b"", b'"', b'{"entries":["'):
        has_many_values(start + repeated * ((16 << 20) // len(repeated)))


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """What a full disk does, at a place of our choice."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [66_000, 69_000, 70_000, 71_500])
async def test_where_there_is_no_room_for_a_body_the_store_is_unavailable(room: int) -> None:
    """At whichever byte: the last of them are written only when all is read again."""
    crumbs = [b"x" * 1000] * 72

    async def receive() -> Message:
        return {"type": "http.request", "body": crumbs.pop(), "more_body": bool(crumbs)}

    request = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)
    with no_file_over(room), pytest.raises(StorageUnavailableError):
        await read_body(request, max_bytes=1 << 20)
