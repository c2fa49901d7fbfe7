"""Requests that tus 1.0.0 forbids, or that leave open what they mean."""

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from tests.support.bad_inputs import MAX_FILE_BYTES
from tests.support.census import unchanged
from tests.support.server import Boatload
from tests.support.tus import BODY, ENDPOINT, VERSION, Tus, encoded, metadata, refused
from tests.support.values import UNKNOWN
from tests.support.wire import connection, read_answer, request_head

NOT_SPOKEN = [None, "", "0.2.2", "1.0", "1.0.1", "2.0.0", "1.0.0, 2.0.0"]
NO_SIZE = ["", "-1", "+1", "1.0", "1e3", "x", "0x10", "1,1", "\u0661".encode().decode("latin-1")]


@pytest.fixture
def url(tus: Tus) -> Iterator[str]:
    """An upload of 10 bytes that has 5, and behind the test takes the rest: nothing that was refused is in it."""
    created = tus.create(10)
    assert tus.patch(created, 0, b"hello").status_code == 204
    yield created
    assert tus.patch(created, 5, b"world").status_code == 204
    assert tus.content(created) == b"helloworld"


def create(client: httpx.Client, **headers: str) -> httpx.Response:
    """A creation whose headers may be what httpx would not encode."""
    named = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return client.post(ENDPOINT, headers=[(b"tus-resumable", b"1.0.0"), *named])


@pytest.mark.parametrize("version", NOT_SPOKEN)
def test_tus_without_or_with_a_wrong_tus_resumable(
    server: Boatload, client: httpx.Client, url: str, version: str | None
) -> None:
    headers = {"tus-resumable": version} if version is not None else {}
    with unchanged(server):
        for answer in (
            client.post(ENDPOINT, headers=headers | {"upload-length": "5"}),
            client.patch(url, content=b"world", headers=headers | BODY | {"upload-offset": "5"}),
            client.delete(url, headers=headers),
            client.patch(f"{ENDPOINT}/{uuid4()}", content=b"x", headers=headers | {"upload-offset": "-1"}),
        ):
            refused(answer, 412, "unsupported-tus-version")
            assert answer.headers["tus-version"] == "1.0.0"
        head = client.head(url, headers=headers)
        assert (head.status_code, head.headers["tus-version"]) == (412, "1.0.0")


@pytest.mark.parametrize("offset", [None, *NO_SIZE[:-1], 2**63, 2**64, 10**40])
def test_a_tus_offset_that_is_negative_not_a_number_past_2_63(
    server: Boatload, tus: Tus, url: str, offset: object
) -> None:
    with unchanged(server):
        assert refused(tus.patch(url, offset, b"x"), 400, "invalid-header")["header"] == "Upload-Offset"


@pytest.mark.parametrize("offset", [0, 2, 4, 6, 10, 11, 2**62, 2**63 - 1])
def test_a_tus_offset_mismatch(server: Boatload, tus: Tus, url: str, offset: int) -> None:
    with unchanged(server):
        assert refused(tus.patch(url, offset, b"x"), 409, "offset-mismatch")["offset"] == 5


async def test_an_upload_locked_by_another_writer(server: Boatload, tus: Tus, url: str) -> None:
    """The one that came first is the one that is refused: its client has gone on to another connection."""
    with unchanged(server):
        async with connection(server.port) as (reader, writer):
            named = {"Content-Length": 5, "Upload-Offset": 5, **VERSION, **BODY}
            writer.write(request_head("PATCH", url, Expect="100-continue", **named))
            assert b" 100 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)  # it is the writer now
            assert await asyncio.to_thread(tus.offset, url) == 5
            answer = await asyncio.wait_for(read_answer(reader), 20)
            refused_late = answer.json()
            assert (answer.status_code, refused_late["type"]) == (423, "/problems/upload-locked")


@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
def test_a_tus_body_past_upload_length(server: Boatload, tus: Tus, url: str, *, chunked: bool) -> None:
    with unchanged(server):
        body = b"world!"
        refused(tus.patch(url, 5, iter([body]) if chunked else body), 413, "size-exceeded")
        assert tus.offset(url) == 5


def test_a_tus_body_whose_last_chunk_is_past_upload_length(tus: Tus) -> None:
    """No excess byte is kept; what came before it may be."""
    url = tus.create(10)
    refused(tus.patch(url, 0, iter([b"hello", b"world", b"!"])), 413, "size-exceeded")
    offset = tus.offset(url)
    assert offset <= 10
    if offset < 10:
        assert tus.patch(url, offset, b"helloworld"[offset:]).status_code == 204
    assert tus.content(url) == b"helloworld"


def test_a_tus_creation_with_a_body_past_upload_length(server: Boatload, tus: Tus) -> None:
    with unchanged(server):
        refused(tus.post(b"hello!", upload_length=5), 413, "size-exceeded")
        refused(tus.post(iter([b"hello", b"!"]), upload_length=5), 413, "size-exceeded")


@pytest.mark.parametrize("length", [MAX_FILE_BYTES + 1, 2**63 - 1, 2**63, 2**64, 10**30])
def test_an_upload_length_over_the_maximum(server: Boatload, tus: Tus, length: int) -> None:
    deferred = tus.create()
    with unchanged(server):
        assert refused(tus.post(upload_length=length), 413, "file-too-large")["max_file_bytes"] == MAX_FILE_BYTES
        refused(tus.patch(deferred, 0, b"x", upload_length=length), 413, "file-too-large")
        assert tus.offset(deferred) == 0


def test_an_upload_length_with_or_without_upload_defer_length(server: Boatload, tus: Tus) -> None:
    with unchanged(server):
        refused(tus.post(), 400, "invalid-header")
        refused(tus.post(upload_length=1, upload_defer_length=1), 400, "invalid-header")


@pytest.mark.parametrize("defer", ["", "0", "2", "true", "11"])
def test_an_upload_defer_length_that_is_not_1(server: Boatload, tus: Tus, defer: str) -> None:
    with unchanged(server):
        assert refused(tus.post(upload_defer_length=defer), 400, "invalid-header")["header"] == "Upload-Defer-Length"


@pytest.mark.parametrize("length", NO_SIZE)
def test_an_upload_length_that_is_no_number(server: Boatload, client: httpx.Client, length: str) -> None:
    with unchanged(server):
        answer = create(client, upload_length=length)
        assert refused(answer, 400, "invalid-header")["header"] == "Upload-Length"


@pytest.mark.parametrize(
    "raw",
    [
        "filename !!!",
        "filename YS50eHQ",
        "filename YS5 0eHQ=",
        "filename =",
        "filename YS50eHQ=,filename YS50eHQ=",
        "filename YS50eHQ=,",
        ",",
        f",filename {encoded('a')}",
        "f\u00efle YS50eHQ=",
        metadata(filename="a\r\nSet-Cookie: x"),
        metadata(filename="a\nb"),
        metadata(filetype="text/plain\r"),
        metadata(anything="a\nb"),
        metadata(filename="a\x00b"),
        metadata(ref=b"\xff"),
        metadata(ref="a\nb"),
        ",".join(f"k{number} eA==" for number in range(101)),
    ],
)
def test_bad_base64_in_upload_metadata_or_cr_lf_in_a_value(server: Boatload, client: httpx.Client, raw: str) -> None:
    with unchanged(server):
        answer = create(client, upload_length="1", upload_metadata=raw)
        assert refused(answer, 400, "invalid-header")["header"] == "Upload-Metadata"


@pytest.mark.parametrize("letter", ["x", "\N{SPARKLES}"])
def test_a_ref_in_upload_metadata_that_is_too_long(server: Boatload, tus: Tus, letter: str) -> None:
    """As long as a manifest takes it, it is taken; of 7,000 bytes of no order no index holds one."""
    assert tus.create(1, upload_metadata=metadata(ref=letter * 255))
    with unchanged(server):
        for ref in (letter * 256, "".join(chr(0x4E00 + 37 * place % 20_000) for place in range(2400))):
            refused(tus.post(upload_length=1, upload_metadata=metadata(ref=ref)), 400, "invalid-header")


@pytest.mark.parametrize(
    "filename", ["../../etc/passwd", "C:\\x", "/etc/passwd", "a/../b", "a//b", "n" * 256, "bell\x07", b"\xff\xfe"]
)
def test_a_filename_in_upload_metadata_that_leads_elsewhere(server: Boatload, tus: Tus, filename: str | bytes) -> None:
    with unchanged(server):
        answer = tus.post(upload_length=1, upload_metadata=metadata(filename=filename))
        refused(answer, 422, "invalid-filename")


@pytest.mark.parametrize(
    "part",
    [
        f"{ENDPOINT}/{UNKNOWN}",
        f"{ENDPOINT}/../batches/x",
        f"{ENDPOINT}/..%2f..%2fetc",
        f"{ENDPOINT}/../tus/{UNKNOWN}",
        "../",
        "/etc/passwd",
        "x",
        UNKNOWN,
        f"/v1/uploads/{UNKNOWN}",
        f"http://127.0.0.1{ENDPOINT}/x",
        "http://[",
    ],
)
def test_concat_with_dot_dot(server: Boatload, tus: Tus, part: str) -> None:
    whole = tus.stored(b"x", upload_concat="partial")
    with unchanged(server):
        refused(tus.post(upload_concat=f"final;{whole} {part}"), 404, "not-found")


@pytest.mark.parametrize("identity", [UNKNOWN, "x", "..%2f..%2fetc%2fpasswd", "%00", "a" * 500])
def test_a_tus_id_with_dot_dot(server: Boatload, tus: Tus, identity: str) -> None:
    with unchanged(server):
        refused(tus.patch(f"{ENDPOINT}/{identity}", 0, b"x"), 404, "not-found")
        refused(tus.delete(f"{ENDPOINT}/{identity}"), 404, "not-found")
        assert tus.head(f"{ENDPOINT}/{identity}").status_code == 404


@pytest.mark.parametrize("value", ["", "final", "final;", "partial;x", "Partial", "whole", "final,/v1/tus/x"])
def test_an_upload_concat_that_is_neither_partial_nor_final(server: Boatload, tus: Tus, value: str) -> None:
    with unchanged(server):
        refused(tus.post(upload_length=5, upload_concat=value), 400, "invalid-header")
        refused(tus.post(upload_concat=value), 400, "invalid-header")


@pytest.mark.parametrize("content_type", ["application/octet-stream", "multipart/form-data", "text/plain", ""])
def test_a_tus_body_of_another_type(server: Boatload, tus: Tus, url: str, content_type: str) -> None:
    with unchanged(server):
        answer = tus.post(b"hello", upload_length=5, content_type=content_type)
        refused(answer, 415, "unsupported-media-type")
        refused(tus.patch(url, 5, b"world", content_type=content_type), 415, "unsupported-media-type")


async def test_a_tus_creation_that_is_cut(server: Boatload) -> None:
    """Nobody knows its URL: it goes, and so does the batch that was opened for it; its bytes go with the next sweep."""
    with unchanged(server, besides=["objects", "object bytes", "file bytes"]):
        async with connection(server.port) as (reader, writer):
            named = {"Content-Length": 10, "Upload-Length": 10, "Expect": "100-continue", **VERSION, **BODY}
            writer.write(request_head("POST", ENDPOINT, **named))
            assert b" 100 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            writer.write(b"hello")
            await writer.drain()
