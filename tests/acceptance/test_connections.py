"""Requests as clients other than ours put them on the wire."""

import asyncio
import signal

import pytest

from tests.support.postgres import Servers
from tests.support.server import Boatload, serving
from tests.support.wire import (
    CONTENT_TYPE,
    FORM,
    Answer,
    File,
    all_uploads,
    connection,
    counts,
    finished,
    multipart,
    problem,
    read_answer,
    request_head,
)

BODY = multipart(File("a", b"first"), File("b", b"second"))
UNKNOWN = "/v1/batches/01a20752-784f-714f-a011-000000000000/uploads"


async def answered(reader: asyncio.StreamReader) -> Answer:
    return await asyncio.wait_for(read_answer(reader), 20)


async def test_requests_in_one_pipeline_are_answered_in_order(server: Boatload) -> None:
    head = request_head("POST", "/v1/uploads", Content_Type=CONTENT_TYPE, Content_Length=len(BODY))
    async with connection(server.port) as (reader, writer):
        writer.write((head + BODY) * 3 + request_head("GET", "/healthz"))
        urls = {(await answered(reader)).json()["url"] for _ in range(3)}
        assert len(urls) == 3
        assert (await answered(reader)).json() == {"status": "ok"}


async def test_a_connection_is_used_again_after_a_refusal_that_read_the_whole_body(server: Boatload) -> None:
    bad = multipart(File("../a", b"x"))
    async with connection(server.port) as (reader, writer):
        for _ in range(3):
            writer.write(request_head("POST", "/v1/uploads", Content_Type=CONTENT_TYPE, Content_Length=len(bad)) + bad)
            problem(await answered(reader), 422, "no-file-taken")


async def test_whoever_asks_before_sending_is_told_to_go_on(server: Boatload) -> None:
    head = request_head(
        "POST", "/v1/uploads", Content_Type=CONTENT_TYPE, Content_Length=len(BODY), Expect="100-continue"
    )
    async with connection(server.port) as (reader, writer):
        writer.write(head)
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).startswith(b"HTTP/1.1 100 ")
        writer.write(BODY)
        assert (await answered(reader)).status_code == 201


@pytest.mark.parametrize(
    ("path", "content_type", "status"), [(UNKNOWN, CONTENT_TYPE, 404), ("/v1/uploads", "text/plain", 415)]
)
async def test_whoever_asks_before_sending_in_vain_is_refused_without_sending(
    server: Boatload, path: str, content_type: str, status: int
) -> None:
    head = request_head("POST", path, Content_Type=content_type, Content_Length=10**10, Expect="100-continue")
    async with connection(server.port) as (reader, writer):
        writer.write(head)
        assert (await answered(reader)).status_code == status  # and no 100 before it


@pytest.mark.parametrize("broken", [b"zz\r\n", b"-5\r\nhello\r\n", b"5\r\nhelloXX", b"ffffffffffffffffff\r\n"])
async def test_a_broken_chunk_ends_the_connection_and_stores_nothing_of_its_file(
    server: Boatload, broken: bytes
) -> None:
    whole = multipart(File("whole", b"whole"))[: -len("--\r\n")] + b"\r\n"
    begun = File("begun").head + b"beginning"
    with server.client() as client:
        url = client.post("/v1/batches").headers["location"]
        async with connection(server.port) as (reader, writer):
            writer.write(request_head("POST", f"{url}/uploads", Content_Type=CONTENT_TYPE, Transfer_Encoding="chunked"))
            writer.write(f"{len(whole + begun):x}\r\n".encode() + whole + begun + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.3)
            writer.write(broken)
            assert b" 400 " in (await asyncio.wait_for(reader.read(), 20)).partition(b"\r\n")[0]
        async with asyncio.timeout(20):
            while not (uploads := all_uploads(client, url)):
                await asyncio.sleep(0.05)
        assert [upload["filename"] for upload in uploads] == ["whole"]


async def test_a_body_in_single_bytes_is_the_same_body(server: Boatload) -> None:
    async with connection(server.port) as (reader, writer):
        writer.write(request_head("POST", "/v1/uploads", Content_Type=CONTENT_TYPE, Content_Length=len(BODY)))
        for number in range(len(BODY)):
            writer.write(BODY[number : number + 1])
            await writer.drain()
            await asyncio.sleep(0)
        answer = await answered(reader)
        assert answer.status_code == 201
    with server.client() as client:
        contents = [client.get(result["upload"]["content_url"]).content for result in answer.json()["results"]]
    assert contents == [b"first", b"second"]


async def test_http_1_0_is_spoken(server: Boatload) -> None:
    async with connection(server.port) as (reader, writer):
        head = request_head("POST", "/v1/uploads", Content_Type=CONTENT_TYPE, Content_Length=len(BODY))
        writer.write(head.replace(b"HTTP/1.1", b"HTTP/1.0") + BODY)
        assert (await answered(reader)).status_code == 201
        assert await asyncio.wait_for(reader.read(), 20) == b""


async def test_a_request_under_way_is_finished_before_the_server_ends(postgres_servers: Servers) -> None:
    url = postgres_servers.get("18").create_migrated()
    with serving(database_url=url) as server:
        async with connection(server.port) as (reader, writer):
            writer.write(request_head("POST", "/v1/uploads", Content_Type=CONTENT_TYPE, Content_Length=len(BODY)))
            writer.write(BODY[:100])
            await writer.drain()
            await asyncio.sleep(0.3)
            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(1)
            writer.write(BODY[100:])
            answer = await answered(reader)
            assert answer.status_code == 201
            assert answer.headers["connection"] == "close"
        await asyncio.to_thread(server.process.wait, 15)
        server.start()
        with server.client() as client:
            assert counts(finished(client, answer.json()["url"])) == (2, 2, 2, 0)


async def test_an_answer_that_nobody_reads_is_cut_when_the_server_ends_and_is_no_fault(
    postgres_servers: Servers,
) -> None:
    url = postgres_servers.get("18").create_migrated()
    with serving(database_url=url, shutdown_seconds=1) as ending:
        with ending.client() as client:
            batch = client.post("/v1/batches").headers["location"]
            content = client.put(f"{batch}/files/big", content=bytes(30 << 20)).json()["content_url"]
        async with connection(ending.port) as (reader, writer):
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # it has it
            writer.write(request_head("GET", content))
            await asyncio.sleep(0.5)
            assert await asyncio.to_thread(ending.stop) == -signal.SIGTERM
            writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await read_answer(reader)
        assert "Cancel 1 running task" in ending.log
        assert "Traceback" not in ending.log
        assert '"status":200' in ending.log


async def test_hundreds_of_requests_at_once_are_all_answered(server: Boatload) -> None:
    body = multipart(File("a", b"x"))
    async with server.async_client() as api:
        answers = await asyncio.gather(*(api.post("/v1/uploads", content=body, headers=FORM) for _ in range(300)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["url"] for answer in answers}) == 300
