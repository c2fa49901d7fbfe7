"""Files by PUT, over a real socket: stored once, compared after that, and never half."""

import asyncio
import base64
import hashlib
import subprocess
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.support.server import Boatload
from tests.support.services import pattern
from tests.support.wire import Json, all_uploads, connection, finished, problem, read_answer, request_head

MIB = 1 << 20
SIZES = [0, 1, 4096, 64 * 1024, 64 * 1024 + 1, MIB, MIB + 1, 3 * MIB]


def digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def opened(client: httpx.Client, **new: object) -> str:
    url: str = client.post("/v1/batches", json=new).headers["location"]
    return url


def put(client: httpx.Client, batch: str, path: str, data: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.put(f"{batch}/files/{quote(path)}", content=data, headers=named)


def declared(client: httpx.Client, batch: str, data: bytes, ref: str = "one", **more: object) -> Json:
    entry = {"ref": ref, "filename": ref, "size_bytes": len(data)} | more
    answer = client.post(f"{batch}/manifest", json={"entries": [entry]})
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()["entries"][0]
    return found


@pytest.mark.parametrize("size", SIZES)
def test_a_file_is_stored_and_then_compared(client: httpx.Client, size: int) -> None:
    data, other = pattern(size, size), pattern(size + 1, 1)
    batch = opened(client)
    first = put(client, batch, "a/b c.txt", data, want_repr_digest="sha-256=10", content_type="text/plain")
    assert first.status_code == 201, first.text
    upload = first.json()
    assert (upload["ref"], upload["filename"], upload["content_type"]) == ("a/b c.txt", "a/b c.txt", "text/plain")
    assert first.headers["location"] == f"/v1/uploads/{upload['id']}"
    assert first.headers["repr-digest"] == digest(data)
    again = put(client, batch, "a/b c.txt", data)
    assert (again.status_code, again.json()["id"]) == (200, upload["id"])
    assert "repr-digest" not in again.headers
    problem(put(client, batch, "a/b c.txt", other), 409, "ref-conflict")
    if size:
        problem(put(client, batch, "a/b c.txt", pattern(size, size + 1)), 409, "ref-conflict")
    assert client.get(f"{first.headers['location']}/content").content == data
    assert len(all_uploads(client, batch)) == 1


def test_digests_of_other_kinds_are_passed_over(client: httpx.Client) -> None:
    batch = opened(client)
    both = f"sha-512=:{base64.b64encode(bytes(64)).decode()}:, {digest(b'x')}"
    assert put(client, batch, "x", b"x", repr_digest=both).status_code == 201


@pytest.mark.parametrize(
    "path", ["..%2Fx", "a/../b", "%2Fetc/passwd", "a//b", "a%00b", "a%0Ab", "%FF", "C:%5Cx", "", "x" * 256]
)
async def test_a_path_that_is_no_file_name_is_refused(server: Boatload, path: str) -> None:
    with server.client() as client:
        batch = opened(client)
    async with connection(server.port) as (reader, writer):
        writer.write(request_head("PUT", f"{batch}/files/{path}", Content_Length=1) + b"x")
        answer = await read_answer(reader)
    problem(answer, 422, "invalid-filename")
    with server.client() as client:
        assert all_uploads(client, batch) == []


@pytest.mark.parametrize(
    ("path", "ref"),
    [
        ("/files/%2520%C3%A9?q=1", "%20é"),
        ("/files/a/files/b", "a/files/b"),
        ("/f%69les/a/files/b", "a/files/b"),
        ("%2Ffiles%2Fa", "a"),
    ],
)
async def test_a_path_is_decoded_once(server: Boatload, path: str, ref: str) -> None:
    with server.client() as client:
        batch = opened(client)
    async with connection(server.port) as (reader, writer):
        writer.write(request_head("PUT", f"{batch}{path}", Content_Length=1) + b"x")
        assert (await read_answer(reader)).json()["ref"] == ref


def test_curl_puts_a_file(server: Boatload, client: httpx.Client, tmp_path: Path) -> None:
    batch = opened(client)
    for size in (5, 3 * MIB):
        file = tmp_path / f"file-{size}.bin"
        file.write_bytes(pattern(size))
        for status in ("201", "200"):
            command = [
                "curl",
                "-sS",
                "-T",
                str(file),
                "-w",
                "%{http_code}",
                "-o",
                "/dev/null",
                f"{server.url}{batch}/files/",
            ]
            assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout == status
    assert [upload["ref"] for upload in all_uploads(client, batch)] == ["file-5.bin", f"file-{3 * MIB}.bin"]


@pytest.mark.parametrize("size", [100, 3 * MIB])
async def test_a_chunked_body_is_taken(server: Boatload, size: int) -> None:
    data = pattern(size)

    async def body():  # type: ignore[no-untyped-def]  # noqa: ANN202 - an async iterator of bytes
        for start in range(0, size, 10_000):
            yield data[start : start + 10_000]

    async with server.async_client() as client:
        batch = (await client.post("/v1/batches", json={})).headers["location"]
        answer = await client.put(f"{batch}/files/x", content=body())
        assert answer.status_code == 201
        assert answer.json()["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [1000, 100_000, 3 * MIB])
async def test_a_body_that_is_cut_stores_nothing(server: Boatload, size: int) -> None:
    with server.client() as client:
        batch = opened(client)
        async with connection(server.port) as (_, writer):
            writer.write(request_head("PUT", f"{batch}/files/x", Content_Length=size) + pattern(size - 1))
            await writer.drain()
            await asyncio.sleep(0.1)
        assert put(client, batch, "x", b"whole").status_code == 201
        assert [upload["size_bytes"] for upload in all_uploads(client, batch)] == [5]


async def test_who_waits_to_be_asked_need_not_send_what_is_here(server: Boatload) -> None:
    data = pattern(MIB)
    with server.client() as client:
        batch = opened(client)
        stored = put(client, batch, "x", data).json()
    for name, status in ((digest(data), 200), (digest(b"else"), 409)):
        async with connection(server.port) as (reader, writer):
            head = request_head("PUT", f"{batch}/files/x", Content_Length=MIB, Expect="100-continue", Repr_Digest=name)
            writer.write(head)
            answer = await read_answer(reader)
            assert answer.status_code == status
            assert answer.headers["connection"] == "close"
            if status == 200:
                assert answer.json()["id"] == stored["id"]
    async with connection(server.port) as (reader, writer):
        writer.write(request_head("PUT", f"{batch}/files/y", Content_Length=MIB, Expect="100-continue"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(data)
        assert (await read_answer(reader)).status_code == 201


def test_what_is_in_a_closed_batch_is_compared_all_the_same(client: httpx.Client) -> None:
    batch = opened(client, expected_uploads=1)
    assert put(client, batch, "x", b"x").status_code == 201
    assert finished(client, batch)["status"] == "completed"
    assert put(client, batch, "x", b"x").status_code == 200
    problem(put(client, batch, "x", b"y"), 409, "ref-conflict")


def test_what_cannot_be_a_file_body_is_refused(client: httpx.Client) -> None:
    batch = opened(client)
    problem(put(client, batch, "x", b"x", content_encoding="gzip"), 415, "unsupported-media-type")
    problem(put(client, batch, "x", b"x", content_range="bytes 0-0/2"), 400, "content-range")
    assert all_uploads(client, batch) == []


@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_put_fills_what_was_declared(client: httpx.Client, size: int) -> None:
    data = pattern(size, 7 + size)
    batch = opened(client)
    entry = declared(client, batch, data, "x", sha256=hashlib.sha256(data).hexdigest())
    client.post(f"{batch}/seal")
    for other in (data[:-1], data + b"1", pattern(size)):
        answer = put(client, batch, "x", other)
        if len(other) == size:
            problem(answer, 422, "digest-mismatch")
        else:
            problem(answer, 409, "ref-conflict")
    stored = put(client, batch, "x", data)
    assert (stored.status_code, stored.json()["id"]) == (201, entry["upload_id"])
    assert finished(client, batch)["successful_uploads"] == 1


@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_the_bytes_of_a_declared_upload_come_in_pieces(client: httpx.Client, size: int) -> None:
    data = pattern(size, 9 + size)
    batch = opened(client)
    url = declared(client, batch, data)["content_url"]
    half = size // 2
    first = client.put(url, content=data[:half], headers={"Upload-Offset": "0"})
    assert (first.status_code, first.headers["upload-offset"], first.json()["status"]) == (200, str(half), "receiving")
    assert first.json()["content_url"] is None
    problem(client.get(url), 404, "content-unavailable")
    for offset in (0, half - 1, half + 1):
        wrong = client.put(url, content=b"x", headers={"Upload-Offset": str(offset)})
        assert problem(wrong, 409, "offset-mismatch")["offset"] == half
        assert wrong.headers["upload-offset"] == str(half)
    for offset in ("-1", "x", "1.0", str(2**63), "", "0x1"):
        problem(client.put(url, content=b"x", headers={"Upload-Offset": offset}), 400, "invalid-offset")
    rest = {"Upload-Offset": str(half), "Want-Repr-Digest": "sha-256=1"}
    wrong = client.put(url, content=data[half:], headers=rest | {"Content-Digest": digest(b"else")})
    problem(wrong, 422, "checksum-mismatch")
    problem(client.put(url, content=data[half:] + b"x", headers=rest), 413, "size-exceeded")
    last = client.put(url, content=data[half:], headers=rest | {"Content-Digest": digest(data[half:])})
    assert (last.status_code, last.headers["repr-digest"]) == (201, digest(data))
    assert last.headers["location"] == f"/v1/uploads/{last.json()['id']}"
    assert client.get(url).content == data
    assert client.put(url, content=data).status_code == 200
    assert client.put(url, content=b"", headers={"Upload-Offset": str(size)}).status_code == 200
    problem(client.put(url, content=pattern(size, 1)), 409, "ref-conflict")
    problem(client.put(url, content=b"x", headers={"Upload-Offset": str(size)}), 413, "size-exceeded")


async def test_a_piece_that_is_cut_is_gone_on_with(server: Boatload) -> None:
    data = pattern(3 * MIB, 5)
    with server.client() as client:
        batch = opened(client)
        url = declared(client, batch, data)["content_url"]
        async with connection(server.port) as (_, writer):
            writer.write(request_head("PUT", url, Content_Length=len(data), Upload_Offset=0) + data[: MIB + 123])
            await writer.drain()
        again = {}
        while again.get("offset") != MIB + 123:
            await asyncio.sleep(0.02)
            again = declared(client, batch, data)
        assert again["action"] == "resume"
        rest = client.put(url, content=data[MIB + 123 :], headers={"Upload-Offset": str(MIB + 123)})
        assert rest.status_code == 201
        assert client.get(url).content == data
