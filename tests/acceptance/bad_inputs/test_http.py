"""Requests that are no proper HTTP, or that come too slowly: refused, closed, and nothing of them left behind."""

import asyncio
import base64
import hashlib
from collections.abc import Iterator

import httpx
import pytest

from tests.support.census import census, unchanged
from tests.support.postgres import Servers
from tests.support.raw import talk
from tests.support.server import Boatload, serving
from tests.support.tus import BODY, ENDPOINT, VERSION
from tests.support.wire import CONTENT_TYPE, Answer, File, connection, multipart, problem, request_head

MIB = 1 << 20
SECONDS = 1.5
LEAST = 1000
BIG = multipart(File("a", bytes(2 * MIB)))
JSON = b'{"label": "' + b"x" * 150 + b'"}'
SMALL = multipart(File("a", b"x" * 1000))


@pytest.fixture(scope="module")
def hasty(postgres_servers: Servers) -> Iterator[Boatload]:
    """A server that does not wait for long."""
    database = postgres_servers.get("18").create_migrated()
    with serving(
        database_url=database, head_seconds=SECONDS, body_seconds=SECONDS, body_bytes_per_second=LEAST
    ) as running:
        yield running


@pytest.fixture
def batch(client: httpx.Client) -> str:
    """The address of a new batch on the server of this folder."""
    return client.post("/v1/batches").headers["location"]


def one_shot(**headers: object) -> bytes:
    return request_head("POST", "/v1/uploads", Content_Type=CONTENT_TYPE, **headers)


def closed(answers: list[Answer], status: int, slug: str) -> None:
    """There was one answer, this one, and the connection ended with it."""
    (answer,) = answers
    problem(answer, status, slug)
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    "lengths",
    [
        f"Content-Length: {len(SMALL)}\r\nTransfer-Encoding: chunked",
        f"Transfer-Encoding: chunked\r\nContent-Length: {len(SMALL)}",
        f"Content-Length: {len(SMALL)}\r\nContent-Length: {len(SMALL)}",
        f"Content-Length: {len(SMALL)}\r\nContent-Length: 5",
        "Content-Length: -5",
        "Content-Length: 99999999999999999999",
    ],
)
async def test_content_length_and_transfer_encoding_two_content_lengths_negative_overflow(
    server: Boatload, lengths: str
) -> None:
    with unchanged(server):
        head = one_shot()[:-2] + lengths.encode() + b"\r\n\r\n"
        closed(await talk(server.port, head + SMALL), 400, "malformed-request")


@pytest.mark.parametrize("body", [SMALL, BIG], ids=["small", "big"])
@pytest.mark.parametrize("door", ["multipart", "put", "put-waiting"])
@pytest.mark.parametrize("half", [True, False], ids=["half-closed", "closed"])
async def test_content_length_short_then_close(
    server: Boatload, batch: str, door: str, body: bytes, *, half: bool
) -> None:
    with unchanged(server):
        async with connection(server.port) as (reader, writer):
            writer.write(head_at(door, batch, len(body)) + body[:-10])
            await writer.drain()
            if half:
                writer.write_eof()
                await asyncio.wait_for(reader.read(), 20)


async def test_unknown_expect(server: Boatload) -> None:
    with unchanged(server):
        for expect in ("200-ok", "100-continue, 200-ok", "100-continue;q=1", ""):
            head = one_shot(Content_Length=len(SMALL), Expect=expect)
            closed(await talk(server.port, head), 417, "expectation-failed")
            closed(await talk(server.port, head + SMALL), 417, "expectation-failed")


async def test_headers_over_32_kb_or_over_100_no_host(server: Boatload) -> None:
    length = {"Content_Length": len(SMALL)}
    with unchanged(server):
        for head in (
            one_shot(**length, X="a" * 32 * 1024),
            one_shot(**length, **{f"X{number}": "a" * 400 for number in range(85)}),
            one_shot(**length, **{f"X{number}": "a" for number in range(98)}),
        ):
            closed(await talk(server.port, head + SMALL), 431, "head-too-large")
        no_host = one_shot(**length).replace(b"Host: 127.0.0.1\r\n", b"")
        closed(await talk(server.port, no_host + SMALL), 400, "malformed-request")


async def test_headers_of_almost_32_kb_and_just_100_are_read(server: Boatload) -> None:
    """Those of the one, and of the other: Host and two more come with every request of this kind."""
    for head in (
        request_head("GET", "/healthz", X="a" * (32 * 1024 - 100), Connection="close"),
        request_head("GET", "/healthz", **{f"X{number}": "a" for number in range(98)}, Connection="close"),
    ):
        (answer,) = await talk(server.port, head)
        assert answer.status_code == 200


def head_at(door: str, batch: str, length: int) -> bytes:
    """The head of a request that brings a file of that length."""
    if door == "json":
        return request_head("POST", "/v1/batches", Content_Type="application/json", Content_Length=length)
    if door == "multipart":
        return request_head("POST", f"{batch}/uploads", Content_Type=CONTENT_TYPE, Content_Length=length)
    if door == "put":
        return request_head("PUT", f"{batch}/files/a", Content_Length=length)
    assert door == "put-waiting"
    return request_head("PUT", f"{batch}/files/a", Content_Length=length, Expect="100-continue")


STALLS = [
    (door, body, at)
    for door in ("multipart", "put", "put-waiting")
    for body, at in ((SMALL, 0), (SMALL, 500), (BIG, 100), (BIG, 2 * MIB))
] + [("json", JSON, 0), ("json", JSON, 5)]


@pytest.mark.parametrize("trickles", [False, True], ids=["stalled", "trickling"])
async def test_stalled_or_trickling_body(hasty: Boatload, *, trickles: bool) -> None:
    """At every door, at once: before the first byte, within the first, within a file in memory and one in the store."""

    async def stall(door: str, body: bytes, at: int) -> None:
        rest = body[at : at + 200] if trickles else b""
        pieces = [rest[start : start + 1] for start in range(len(rest))]
        answers = await talk(hasty.port, head_at(door, batch, len(body)) + body[:at], *pieces, pause=0.1)
        closed(answers, 408, "request-timeout")

    with hasty.client() as client:
        batch = client.post("/v1/batches").headers["location"]
        with unchanged(hasty):
            await asyncio.gather(*(stall(*one) for one in STALLS))


async def test_stalled_body_keeps_the_files_before_it(hasty: Boatload) -> None:
    whole = multipart(File("whole", b"whole"))[: -len("--\r\n")] + b"\r\n"
    begun = File("begun").head + b"beginning"
    with unchanged(hasty, batches=1, completed=1, objects=1, received_bytes=5):
        (answer,) = await talk(hasty.port, one_shot(Content_Length=10_000) + whole + begun)
        body = problem(answer, 408, "request-timeout")
        assert [result["filename"] for result in body["results"]] == ["whole"]


async def test_stalled_piece_keeps_what_is_durable(hasty: Boatload) -> None:
    """By tus and by PUT; but for a piece with a checksum, which is kept whole or not at all."""
    data = bytes(2 * MIB)
    with hasty.client() as client:
        for method, extra, kept in (
            ("PATCH", {}, MIB),
            ("PUT", {}, MIB),
            ("PATCH", {"Upload_Checksum": f"sha1 {base64.b64encode(hashlib.sha1(data).digest()).decode()}"}, 0),
        ):
            made = client.post(ENDPOINT, headers={**VERSION, "upload-length": str(len(data))})
            url = made.headers["location"]
            target = url if method == "PATCH" else f"/v1/uploads/{url.rpartition('/')[2]}/content"
            head = request_head(
                method, target, **VERSION, **BODY, Upload_Offset=0, Content_Length=len(data), **extra
            )  # fmt: skip
            closed(await talk(hasty.port, head + data[:MIB]), 408, "request-timeout")
            assert int(client.head(url, headers=VERSION).headers["upload-offset"]) == kept
            client.delete(url, headers=VERSION)
    assert census(hasty)["temporary files"] == 0


async def test_stalled_or_trickling_head(hasty: Boatload) -> None:
    with unchanged(hasty):
        head = one_shot(Content_Length=len(SMALL))
        closed(await talk(hasty.port, head[:-2]), 408, "request-timeout")
        trickle = [head[start : start + 1] for start in range(len(head) - 2)]
        closed(await talk(hasty.port, *trickle, pause=0.1), 408, "request-timeout")
        assert await talk(hasty.port) == []  # who says nothing is told nothing


async def test_chunked_body_past_the_request_limit(server: Boatload, batch: str) -> None:
    """Three files of 2 MiB are more than 6 MiB with what is around them; the two that are whole stay."""
    body = multipart(*(File(name, name.encode() * 2 * MIB) for name in "abc"))
    pieces = (b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[at : at + MIB] for at in range(0, 7 * MIB, MIB)))
    with unchanged(server, completed=2):
        head = request_head("POST", f"{batch}/uploads", Content_Type=CONTENT_TYPE, Transfer_Encoding="chunked")
        (answer,) = await talk(server.port, head, *pieces)
        results = problem(answer, 413, "request-too-large")["results"]
        assert [result["filename"] for result in results] == ["a", "b"]
        assert answer.headers["connection"] == "close"
    with unchanged(server):
        head = request_head("POST", "/v1/batches", Content_Type="application/json", Transfer_Encoding="chunked")
        closed(await talk(server.port, head + b"100000\r\n" + b" " * MIB), 413, "request-too-large")
