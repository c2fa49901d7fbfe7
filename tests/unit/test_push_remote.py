"""What the client makes of answers, from a server that says what it is told to."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from uuid import uuid4

import pytest

from app.client.files import Entry
from app.client.remote import AwayError, BusyError, Declared, Json, ProblemError, Remote, Retries

BATCH = uuid4()
FILE = Declared(
    Entry("/tmp/x", "n\xe4me #?.bin", 12, b""),
    upload_id="x",
    file_url="/v1/batches/b/files/n%C3%A4me%20%23%3F.bin",
    content_url="/v1/uploads/x/content",
    have=False,
    offset=7,
    refused=False,
)


def answer(status: int, body: object, *headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Reason", f"Content-Length: {len(content)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


@asynccontextmanager
async def saying(answers: Sequence[bytes], heads: list[str], patience: float = 5) -> AsyncIterator[Remote]:
    """A client of a server that gives these answers, one a connection; the last one for ever."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        remote = Remote(f"http://127.0.0.1:{port}/under", "s3cret", patience=patience)
        try:
            yield remote
        finally:
            await remote.close()


@pytest.mark.parametrize("status", [408, 423, 425, 429, 500, 502, 503, 504, 507])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    heads: list[str] = []
    async with saying([answer(status, {}), b"", answer(200, {"id": 1})], heads) as remote:
        assert await remote.get_batch(BATCH) == {"id": 1}
    assert len(heads) == 3
    assert all(head.startswith(f"GET /under/v1/batches/{BATCH} ") for head in heads)
    assert all("authorization: bearer s3cret" in head.lower() for head in heads)


async def test_a_batch_is_opened_under_one_key_however_often_it_is_asked_for() -> None:
    heads: list[str] = []
    in_flight = answer(409, {"type": "/problems/idempotency-key-in-flight", "detail": "Wait."})
    async with saying([b"", in_flight, answer(503, {}), answer(201, {"id": 1})], heads) as remote:
        assert await remote.open_batch("a") == {"id": 1}
        await remote.open_batch("a")
    keys = [line for head in heads for line in head.lower().split("\r\n") if line.startswith("idempotency-key: ")]
    assert (len(heads), len(keys), len(set(keys)), len(set(keys[:4]))) == (5, 5, 2, 1)


async def test_retry_after_is_waited_for() -> None:
    async with saying([answer(503, {}, "Retry-After: 1"), answer(200, {})], []) as remote:
        started = monotonic()
        await remote.get_batch(BATCH)
        assert monotonic() - started >= 1


async def test_patience_ends() -> None:
    async with saying([answer(503, {"detail": "The store does not answer."})], [], patience=0.3) as remote:
        with pytest.raises(AwayError, match="store does not answer"):
            await remote.get_batch(BATCH)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 409, 410, 413, 422])
async def test_a_no_is_a_no(status: int) -> None:
    problem = {"type": "/problems/some-code", "detail": "Because.", "refs": ["a", None, "b"]}
    heads: list[str] = []
    async with saying([answer(status, problem, "Location: http://127.0.0.1:1/")], heads) as remote:
        with pytest.raises(ProblemError) as refused:
            await remote.get_batch(BATCH)
    assert (refused.value.status, refused.value.code, refused.value.detail) == (status, "some-code", "Because.")
    assert refused.value.refs == ["a", "b"]
    assert len(heads) == 1


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"\xff", b"1"])
async def test_an_answer_of_another_kind_is_not_taken_for_ours(body: bytes) -> None:
    async with saying([answer(200, body)], [], patience=0.1) as remote:
        with pytest.raises(AwayError, match="not Boatload"):
            await remote.get_batch(BATCH)


async def test_bytes_are_sent_once_for_each_call() -> None:
    heads: list[str] = []
    async with saying([answer(503, {})], heads) as remote:
        with pytest.raises(BusyError):
            await remote.append(FILE, b"bytes", offset=7)
        with pytest.raises(BusyError):
            await remote.put(FILE, b"more bytes")
    rest, whole = (head.lower() for head in heads)
    assert rest.startswith("put /under/v1/uploads/x/content ")
    assert "upload-offset: 7" in rest
    assert "content-length: 5" in rest
    assert whole.startswith("put /under/v1/batches/b/files/n%c3%a4me%20%23%3f.bin ")
    assert "upload-offset" not in whole


async def some_body() -> AsyncIterator[bytes]:
    yield b"body"


async def sent(remote: Remote, count: int) -> Sequence[Json]:
    return await remote.send_files(BATCH, some_body(), length=4, content_type="multipart/form-data", count=count)


async def test_what_is_said_of_each_file_is_heard_though_none_was_taken() -> None:
    heads: list[str] = []
    results = [{"index": 0, "status": "rejected"}, {"index": 1, "status": "rejected"}]
    none = {"type": "/problems/no-file-taken", "detail": "None.", "results": results}
    async with saying([answer(207, {"results": results}), answer(422, none), answer(409, {})], heads) as remote:
        assert await sent(remote, 2) == results
        assert await sent(remote, 2) == results
        with pytest.raises(ProblemError):
            await sent(remote, 2)
    assert all(head.startswith(f"POST /under/v1/batches/{BATCH}/uploads?ref=filename ") for head in heads)
    assert all("content-length: 4\r\n" in head.lower() for head in heads)


async def test_results_of_other_files_are_not_taken_for_ours() -> None:
    results = [{"index": 0, "status": "stored"}]
    wrong = [answer(201, {"results": results}), answer(201, {}), answer(422, {"type": "/problems/no-file-taken"})]
    async with saying(wrong, []) as remote:
        for _ in wrong:
            with pytest.raises(BusyError, match="not Boatload"):
                await sent(remote, 2)


async def test_retries_begin_anew_when_something_went_forward() -> None:
    retries = Retries(0.2)
    for _ in range(4):
        await retries.pause(BusyError("busy"))
        retries.reset()

    async def in_vain() -> None:
        while True:
            await retries.pause(BusyError("busy"))

    with pytest.raises(AwayError):
        await in_vain()
