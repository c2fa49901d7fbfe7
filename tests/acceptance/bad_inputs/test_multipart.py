"""Bodies that are not multipart/form-data as they should be."""

import asyncio
import gzip
from collections.abc import Iterator

import httpx
import pytest

from tests.support.bad_inputs import MAX_FILES, MIB
from tests.support.census import unchanged
from tests.support.server import Boatload
from tests.support.wire import (
    BOUNDARY,
    CONTENT_TYPE,
    FORM,
    File,
    Text,
    connection,
    multipart,
    problem,
    read_answer,
    request_head,
    verdicts,
)

ONE = multipart(File("a", b"x"))
CLOSING = f"--{BOUNDARY}--\r\n".encode()


def refused(server: Boatload, body: bytes | Iterator[bytes], headers: dict[str, str], status: int, slug: str) -> None:
    """Sent as a job, the body is answered so, and nothing comes of it."""
    with server.client() as client, unchanged(server):
        problem(client.post("/v1/uploads", content=body, headers=headers), status, slug)


@pytest.mark.parametrize("parameter", ["", "; boundary=", '; boundary=""', "; boundary=" + "x" * 71])
def test_multipart_without_with_empty_with_a_boundary_over_70_characters(server: Boatload, parameter: str) -> None:
    refused(server, ONE, {"content-type": f"multipart/form-data{parameter}"}, 400, "malformed-multipart")


@pytest.mark.parametrize("media_type", [None, "multipart/mixed", "application/json", "multipart/form-data-x"])
def test_multipart_mixed_or_json_at_a_multipart_route(server: Boatload, media_type: str | None) -> None:
    headers = {"content-type": f"{media_type}; boundary={BOUNDARY}"} if media_type else {}
    refused(server, ONE, headers, 415, "unsupported-media-type")


@pytest.mark.parametrize("body", [b"", CLOSING, CLOSING.rstrip(), multipart(Text("a", "b"))])
def test_an_empty_body_only_the_end_marker_no_file_part(server: Boatload, body: bytes) -> None:
    refused(server, body, FORM, 400, "no-files")


@pytest.mark.parametrize(
    "body",
    [b"junk\r\n" + ONE, b"x" * MIB + b"\r\n" + ONE, ONE.replace(b"\r\n", b"\n"), ONE.replace(b"-a-", b"-b-")],
    ids=["junk", "1 MB preamble", "bare LF line ends", "another boundary"],
)
def test_a_junk_preamble_or_bare_lf_line_ends(server: Boatload, body: bytes) -> None:
    refused(server, body, FORM, 400, "malformed-multipart")


@pytest.mark.parametrize("epilogue", [b"x", b"\r\n\r\nx", b"x" * MIB], ids=["junk", "junk in a line", "1 MB"])
def test_an_epilogue(server: Boatload, client: httpx.Client, epilogue: bytes) -> None:
    """What came before it was whole, is kept, and is listed."""
    with unchanged(server, batches=1, completed=1):
        answer = client.post("/v1/uploads", content=ONE + epilogue, headers=FORM)
        body = problem(answer, 400, "malformed-multipart")
        assert verdicts(body["results"]) == ["taken"]
        assert client.get(body["url"]).json()["total_uploads"] == 1


@pytest.mark.parametrize("kind", ["fields", "files"])
async def test_a_million_parts_or_fields(server: Boatload, kind: str) -> None:
    """The answer is there once the limit is passed, before the rest is sent; so many files as are allowed are kept."""
    part = multipart(Text("a", "") if kind == "fields" else File("a", b"", None, "a"))[: -len(CLOSING)]
    kept = 0 if kind == "fields" else MAX_FILES
    with unchanged(server, batches=bool(kept), completed=kept):
        async with connection(server.port) as (reader, writer):
            writer.write(request_head("POST", "/v1/uploads", Content_Type=CONTENT_TYPE, Transfer_Encoding="chunked"))
            writer.write(b"%x\r\n" % (len(part) * 10**6) + part * (MAX_FILES + 1))
            answer = await asyncio.wait_for(read_answer(reader), 20)
        assert len(problem(answer, 413, "too-many-parts").get("results", [])) == kept


def test_a_text_field_of_2_mb(server: Boatload) -> None:
    refused(server, multipart(Text("a", "b" * 2 * MIB), File("a", b"x")), FORM, 413, "field-too-large")


@pytest.mark.parametrize(
    "headers", [b"X-" + b"y" * 4096 + b": z\r\n", b"X: " + b"y" * 4096 + b"\r\n", b"A: b\r\n" * 100]
)
def test_a_part_header_over_4_kb_or_100_part_headers(server: Boatload, headers: bytes) -> None:
    refused(server, ONE.replace(b"Content-Type", headers + b"Content-Type"), FORM, 400, "malformed-multipart")


@pytest.mark.parametrize("lacking", [b"Content-Disposition: ", b'; name="files"', b'; name="files"; filename="a"'])
def test_a_part_without_content_disposition_or_name(server: Boatload, lacking: bytes) -> None:
    refused(server, ONE.replace(lacking, b"X-" * lacking.startswith(b"C")), FORM, 400, "malformed-multipart")


def test_content_transfer_encoding_base64_in_a_part(server: Boatload) -> None:
    body = ONE.replace(b"Content-Type", b"Content-Transfer-Encoding: base64\r\nContent-Type")
    refused(server, body, FORM, 415, "unsupported-media-type")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip"])
def test_content_encoding_gzip_on_the_request(server: Boatload, encoding: str) -> None:
    refused(server, gzip.compress(ONE), FORM | {"content-encoding": encoding}, 415, "unsupported-media-type")
