"""Multipart requests with a key, cut and killed in their middle: sent again, only what was missing is stored."""

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from typing import Final
from uuid import uuid4

import httpx
import pytest

from app.db.embedded import attach
from tests.acceptance.test_killed import MISCOUNTED, MISPLACED
from tests.support.postgres import fetch
from tests.support.server import Boatload, serving
from tests.support.wire import (
    CONTENT_TYPE,
    FORM,
    File,
    Json,
    Text,
    all_uploads,
    connection,
    finished,
    multipart,
    problem,
    read_answer,
    request_head,
    send,
    stream,
    verdicts,
)

BIG: Final = random.Random(7).randbytes(3 << 20)
FILES: Final = (
    *(File(f"a/{number}.bin", b"%d" % number) for number in range(10)),
    File("../refused", b"x"),
    File("big.bin", BIG),
    File("again.bin", b"3"),
    File("empty.bin", b""),
    *(File(f"b/{number}.bin", b"%d" % number * 1000) for number in range(10)),
)
VERDICTS: Final = ["taken"] * 10 + ["rejected"] + ["taken"] * 13
BODY: Final = multipart(*FILES)
CUTS: Final = (40, 300, 1800, 2300, 1 << 20, len(BODY) - 40_000, len(BODY) - 300, len(BODY) - 10)
ENDINGS: Final = ("end", "close", "reset")


@pytest.fixture
def key() -> str:
    return str(uuid4())


async def answered(client: httpx.AsyncClient, url: str, body: bytes, key: str) -> httpx.Response:
    """Send a body until it is no more taken for one that is on its way."""
    async with asyncio.timeout(30):
        while True:
            answer = await client.post(url, content=body, headers=FORM | {"idempotency-key": key})
            if answer.status_code != 409:
                return answer
            problem(answer, 409, "idempotency-key-in-flight")
            assert int(answer.headers["retry-after"]) > 0
            await asyncio.sleep(0.05)


async def batches(client: httpx.AsyncClient) -> set[str]:
    """The URLs of all batches, or of the newest thousand."""
    return {one["url"] for one in (await client.get("/v1/batches?limit=1000")).json()["items"]}


async def cut(server: Boatload, url: str, key: str, at: int, ending: str) -> Json | None:
    """Send the body up to `at`, and break off; what is answered, where it ends there."""
    async with connection(server.port) as (reader, writer):
        size = at if ending == "end" else len(BODY)
        head = request_head("POST", url, Content_Type=CONTENT_TYPE, Content_Length=size, Idempotency_Key=key)
        writer.write(head + BODY[:at])
        await writer.drain()
        if ending == "end":
            told: Json = (await asyncio.wait_for(read_answer(reader), 20)).json()
            return told
        if ending == "reset":
            writer.transport.abort()
    return None


@pytest.mark.parametrize("into", ["its own batch", "a batch"])
async def test_a_cut_request_that_is_sent_again_stores_only_what_was_missing(server: Boatload, into: str) -> None:
    urls: set[str] = set()
    async with server.async_client() as client:
        before = await batches(client)
        for number, at in enumerate(CUTS):
            key, url = str(uuid4()), "/v1/uploads"
            if into == "a batch":
                opened = await client.post("/v1/batches", json={"expected_uploads": len(FILES)})
                url = f"{opened.headers['location']}/uploads"
            for ending in (ENDINGS[number % 3], ENDINGS[(number + 1) % 3]):
                await cut(server, url, key, at, ending)
            answer = await answered(client, url, BODY, key)
            assert answer.status_code == 207
            body = answer.json()
            assert [result["index"] for result in body["results"]] == list(range(len(FILES)))
            assert verdicts(body["results"]) == VERDICTS
            assert body["batch"]["total_uploads"] == len(FILES)
            assert body["batch"]["sealed"]
            listed = (await client.get(f"{body['url']}/uploads?limit=1000")).json()["items"]
            assert [one["id"] for one in listed] == [result["upload"]["id"] for result in body["results"]]
            assert [one["filename"] for one in listed] == [file.filename for file in FILES]
            assert [one["sha256"] for one in listed if not one["error"]] == [
                file.sha256 for file in FILES if file.filename != "../refused"
            ]
            again = await answered(client, url, BODY, key)
            assert (again.status_code, again.content) == (answer.status_code, answer.content)
            assert again.headers["location"] == answer.headers["location"] == body["url"]
            urls.add(body["url"])
        assert len(await batches(client) - before) == len(urls) == len(CUTS)


async def test_what_the_first_request_kept_has_the_same_ids_in_the_second(server: Boatload, key: str) -> None:
    problems = [await cut(server, "/v1/uploads", key, at, "end") for at in CUTS]
    async with server.async_client() as client:
        results = (await answered(client, "/v1/uploads", BODY, key)).json()["results"]
    kept = 0
    for told in problems:
        assert told is not None
        assert told["type"] == "/problems/truncated-multipart"
        before = told.get("results", [])
        assert before == results[: len(before)]
        assert len(before) >= kept
        kept = len(before)
    assert kept >= len(FILES) - 1


@pytest.mark.parametrize("at", [None, 2300])
async def test_another_body_with_the_key_answers_422_and_changes_nothing(
    server: Boatload, key: str, at: int | None
) -> None:
    others: Sequence[Sequence[File | Text]] = (
        [File("a/0.bin", b"other"), *FILES[1:]],
        [File("renamed.bin", b"0"), *FILES[1:]],
        [File("a/0.bin", b"0", "image/png"), *FILES[1:]],
        [*FILES[:10], File("../refused", b"x")][:5],
        [Text("batch_id", str(uuid4())), *FILES],
        *([[*FILES, File("more", b"x")]] if at is None else []),
    )
    async with server.async_client() as client:
        before = await batches(client)
        if at is None:
            await answered(client, "/v1/uploads", BODY, key)
        else:
            await cut(server, "/v1/uploads", key, at, "end")
        (url,) = await batches(client) - before
        uploads = [one["id"] for one in (await client.get(f"{url}/uploads")).json()["items"]]
        for parts in others:
            answer = await answered(client, "/v1/uploads", multipart(*parts), key)
            assert "results" not in problem(answer, 422, "idempotency-key-reused")
        assert await batches(client) - before == {url}
        assert [one["id"] for one in (await client.get(f"{url}/uploads")).json()["items"]] == uploads
        assert (await answered(client, "/v1/uploads", BODY, key)).status_code == 207


async def test_a_request_that_is_on_its_way_answers_409_until_it_has_ended(server: Boatload, key: str) -> None:
    async with server.async_client() as client, connection(server.port) as (reader, writer):
        head = request_head(
            "POST", "/v1/uploads", Content_Type=CONTENT_TYPE, Content_Length=len(BODY), Idempotency_Key=key,
            Expect="100-continue",
        )  # fmt: skip
        writer.write(head)
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(BODY[:2000])
        for url, content, headers in (
            ("/v1/uploads", BODY, FORM),
            ("/v1/batches", b"{}", {"content-type": "application/json"}),
        ):
            answer = await client.post(url, content=content, headers={**headers, "idempotency-key": key})
            problem(answer, 409, "idempotency-key-in-flight")
            assert int(answer.headers["retry-after"]) > 0
        writer.write(BODY[2000:])
        first = await asyncio.wait_for(read_answer(reader), 20)
        assert first.status_code == 207
        again = await answered(client, "/v1/uploads", BODY, key)
        assert again.content == first.content


async def test_many_at_once_with_one_key_have_one_effect(server: Boatload, key: str) -> None:
    async with server.async_client() as client:
        before = await batches(client)
        answers = await asyncio.gather(
            *(client.post("/v1/uploads", content=BODY, headers=FORM | {"idempotency-key": key}) for _ in range(10)),
            *(client.post("/v1/batches", json={}, headers={"idempotency-key": f"{key}, json"}) for _ in range(10)),
        )
        assert {answer.status_code for answer in answers[:10]} <= {207, 409}
        assert {answer.status_code for answer in answers[10:]} <= {201, 409}
        assert len({answer.content for answer in answers if answer.status_code != 409}) == 2
        assert len(await batches(client) - before) == 2


def test_the_answer_outlives_what_it_speaks_of(server: Boatload, key: str) -> None:
    with server.client() as client:
        first = send(client, "/v1/uploads", *FILES, **{"idempotency-key": key})
        finished(client, first.json()["url"])
        assert client.delete(f"{first.json()['url']}?uploads=delete").status_code == 204
        again = send(client, "/v1/uploads", *FILES, **{"idempotency-key": key})
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert client.get(first.json()["url"]).status_code == 404


def test_none_taken_is_an_answer_like_any_other(client: httpx.Client, key: str) -> None:
    answers = [send(client, "/v1/uploads", File("../x", b"x"), **{"idempotency-key": key}) for _ in range(2)]
    problem(answers[0], 422, "no-file-taken")
    assert answers[0].content == answers[1].content
    assert len(answers[0].json()["results"]) == 1


KILLED_FILES: Final = 300
BODIES: Final = 3
KILLS: Final = 2


@pytest.fixture
def own_server() -> Iterator[Boatload]:
    with serving(lease_seconds=2) as server:
        yield server


@pytest.mark.timeout(240)
def test_a_request_survives_kills_of_the_server_and_has_one_effect(own_server: Boatload) -> None:
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(10**6))
    sys.stdout.write(f"SEED={seed}\n")
    chance = random.Random(seed)
    interrupted = 0
    urls = []
    for number in range(BODIES):
        files = [File(f"{number}/{index}.bin", chance.randbytes(100)) for index in range(KILLED_FILES)]
        files[chance.randrange(KILLED_FILES)] = File("big.bin", chance.randbytes(2 << 20))
        key = str(uuid4())
        for _ in range(KILLS):
            asyncio.run(send_until_killed(own_server, files, key, chance.uniform(0.1, 1.2)))
            own_server.start()
            rows = fetch(attach(own_server.data_dir), "SELECT parts FROM idempotency_keys WHERE key = $1", key)
            interrupted += bool(rows) and 0 < rows[0]["parts"] < KILLED_FILES
        with own_server.client() as client:
            answer = send(client, "/v1/uploads", *files, **{"idempotency-key": key})
            assert answer.status_code == 201
            body = answer.json()
            urls.append(body["url"])
            assert body["batch"]["sealed"]
            assert client.get(body["url"]).json()["total_uploads"] == KILLED_FILES
            listed = all_uploads(client, body["url"])
            assert [one["id"] for one in listed] == [result["upload"]["id"] for result in body["results"]]
            assert [(one["filename"], one["sha256"]) for one in listed] == [(one.filename, one.sha256) for one in files]
            again = send(client, "/v1/uploads", *files, **{"idempotency-key": key})
            assert (again.status_code, again.content) == (201, answer.content)
    with own_server.client() as client:
        assert sorted(one["url"] for one in client.get("/v1/batches").json()["items"]) == sorted(urls)
    for wrong in (MISCOUNTED, MISPLACED):
        assert fetch(attach(own_server.data_dir), wrong) == []
    assert interrupted, "no request was killed between two of its groups; the test tries nothing"


async def send_until_killed(server: Boatload, files: Sequence[File], key: str, seconds: float) -> None:
    """Send the files a few at a time, and kill the server in the middle."""

    async def trickle() -> AsyncIterator[bytes]:
        for piece in stream(files):
            yield piece
            await asyncio.sleep(0.001)

    async with server.async_client() as client:
        sending = asyncio.create_task(
            client.post("/v1/uploads", content=trickle(), headers=FORM | {"idempotency-key": key})
        )
        await asyncio.wait([sending], timeout=seconds)
        server.kill()
        with suppress(httpx.TransportError):
            await sending
