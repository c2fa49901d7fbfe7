"""Polls of a batch: by its ETag, and with the patience to wait for something new."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest

from tests.support.server import Boatload
from tests.support.wire import File, Json, connection, problem, read_answer, request_head, send

SMALL = File("small", b"small")


@pytest.fixture
async def api(server: Boatload) -> AsyncIterator[httpx.AsyncClient]:
    async with server.async_client() as opened:
        yield opened


async def open_batch(api: httpx.AsyncClient) -> tuple[str, str]:
    """The URL and the ETag of a new batch."""
    answer = await api.post("/v1/batches")
    return answer.headers["location"], answer.headers["etag"]


def test_an_etag_is_good_until_something_changes(client: httpx.Client) -> None:
    url = client.post("/v1/batches").headers["location"]
    first = client.get(url)
    assert first.headers["etag"] == f'"{first.json()["version"]}"'
    for known in (first.headers["etag"], f"W/{first.headers['etag']}", f'"0", {first.headers["etag"]}', "*"):
        same = client.get(url, headers={"If-None-Match": known})
        assert (same.status_code, same.content) == (304, b"")
        assert same.headers["etag"] == first.headers["etag"]
        assert same.headers["retry-after"] == "1"
    send(client, f"{url}/uploads", SMALL)
    second = client.get(url, headers={"If-None-Match": first.headers["etag"]})
    assert second.status_code == 200
    assert second.json()["version"] > first.json()["version"]


def test_the_short_way_and_the_framework_answer_alike(client: httpx.Client) -> None:
    """A preference that says nothing of waiting goes the long way."""
    opened = client.post("/v1/batches", json={"label": "é", "metadata": {"a": [1, None]}})
    sealed = client.post("/v1/batches")
    client.post(f"{sealed.headers['location']}/seal")
    own = {"date", "x-request-id"}
    for batch in (opened.json(), sealed.json()):
        etag = client.get(batch["url"]).headers["etag"]
        for headers in ({}, {"If-None-Match": etag}, {"If-None-Match": '"0"'}, {"X-Request-Id": "abc"}):
            short = client.get(f"/v1/batches/{batch['id'].upper()}", headers=headers)
            long = client.get(batch["url"], headers=headers | {"Prefer": "handling=lenient"})
            assert (short.status_code, short.content) == (long.status_code, long.content)
            assert {k: v for k, v in short.headers.items() if k not in own} == {
                k: v for k, v in long.headers.items() if k not in own
            }
            if "X-Request-Id" in headers:
                assert short.headers["x-request-id"] == long.headers["x-request-id"] == "abc"


def test_a_poll_of_what_is_not_there_is_a_problem(client: httpx.Client) -> None:
    for headers in ({}, {"Prefer": "wait=20"}):
        problem(client.get(f"/v1/batches/{uuid4()}", headers=headers), 404, "not-found")
        problem(client.get("/v1/batches/nonsense", headers=headers), 404, "not-found")


def test_every_poll_has_its_line_in_the_log(server: Boatload, client: httpx.Client) -> None:
    url = client.post("/v1/batches").headers["location"]
    wanted = {"poll-200": 200, "poll-304": 304, "poll-404": 404}
    client.get(url, headers={"X-Request-Id": "poll-200"})
    client.get(url, headers={"X-Request-Id": "poll-304", "If-None-Match": "*"})
    client.get(f"/v1/batches/{uuid4()}", headers={"X-Request-Id": "poll-404"})
    lines: list[Json] = [json.loads(line) for line in server.log.splitlines() if '"poll-' in line]
    assert {line["request_id"]: line["status"] for line in lines} == wanted
    for line in lines:
        assert line["event"] == "request"
        assert line["method"] == "GET"
        assert line["path"].startswith("/v1/batches/")
        assert (line["logger"], line["level"]) == ("boatload.http", "info")
        assert line["timestamp"].endswith("Z")
        assert 0 <= line["seconds"] < 60


@pytest.mark.parametrize("knows", [False, True])
async def test_a_patient_poll_is_answered_when_the_batch_moves(api: httpx.AsyncClient, *, knows: bool) -> None:
    url, etag = await open_batch(api)
    headers = {"Prefer": "wait=30"} | ({"If-None-Match": etag} if knows else {})
    waiting = asyncio.create_task(api.get(url, headers=headers))
    other, _ = await open_batch(api)  # what happens to another batch does not wake it
    await api.post(f"{other}/seal")
    await asyncio.sleep(0.4)
    assert not waiting.done()
    sealed = (await api.post(f"{url}/seal")).json()
    moved = await asyncio.wait_for(waiting, 5)
    assert moved.status_code == 200
    assert moved.headers["preference-applied"] == "wait=30"
    assert moved.json() == sealed


async def test_patience_that_runs_out_is_answered_with_what_is(api: httpx.AsyncClient) -> None:
    url, etag = await open_batch(api)
    for headers, status in (({}, 200), ({"If-None-Match": etag}, 304)):
        began = time.monotonic()
        answer = await api.get(url, headers=headers | {"Prefer": "wait=1"})
        assert 1 <= time.monotonic() - began < 4
        assert answer.status_code == status
        assert answer.headers["preference-applied"] == "wait=1"
        assert answer.headers["etag"] == etag


async def test_nobody_waits_for_what_is_new_to_him_or_final_already(api: httpx.AsyncClient) -> None:
    url, etag = await open_batch(api)
    began = time.monotonic()
    for headers, status in (
        ({"If-None-Match": '"0"', "Prefer": "wait=50"}, 200),
        ({"Prefer": "wait=0"}, 200),
        ({"If-None-Match": etag, "Prefer": "wait=0"}, 304),
    ):
        answer = await api.get(url, headers=headers)
        assert answer.status_code == status
        assert answer.headers["preference-applied"] == headers["Prefer"]
    for prefer in ("wait=soon", "wait", "wait=-5", "respond-async", "waiting=50"):
        answer = await api.get(url, headers={"Prefer": prefer})
        assert answer.status_code == 200
        assert "preference-applied" not in answer.headers
    final = (await api.post(f"{url}/seal")).headers["etag"]
    for known, status in ((final, 304), (etag, 200)):
        answer = await api.get(url, headers={"If-None-Match": known, "Prefer": "wait=50"})
        assert answer.status_code == status
        assert "retry-after" not in answer.headers
    assert time.monotonic() - began < 10


async def test_patience_beyond_a_minute_is_a_minute(api: httpx.AsyncClient) -> None:
    url, _ = await open_batch(api)
    answer = await api.get(url, headers={"If-None-Match": '"0"', "Prefer": "wait=3600"})
    assert answer.headers["preference-applied"] == "wait=60"


async def test_the_batch_is_deleted_under_a_patient_poll(api: httpx.AsyncClient) -> None:
    url, etag = await open_batch(api)
    waiting = asyncio.create_task(api.get(url, headers={"If-None-Match": etag, "Prefer": "wait=50"}))
    await asyncio.sleep(0.3)
    await api.delete(url)
    problem(await asyncio.wait_for(waiting, 5), 404, "not-found")


@pytest.mark.parametrize("leaving", ["closes", "resets"])
async def test_a_patient_client_that_goes_away_is_noticed(
    server: Boatload, api: httpx.AsyncClient, leaving: str
) -> None:
    url, _ = await open_batch(api)
    name = f"gone-{leaving}"
    async with connection(server.port) as (_, writer):
        writer.write(request_head("GET", url, Prefer="wait=60", X_Request_Id=name))
        await asyncio.sleep(0.4)
        if leaving == "resets":
            writer.transport.abort()
    async with asyncio.timeout(5):
        while f'"{name}"' not in server.log:
            await asyncio.sleep(0.05)
    line = next(json.loads(line) for line in server.log.splitlines() if f'"{name}"' in line and '"request"' in line)
    assert line["seconds"] < 5


async def test_a_patient_poll_whose_body_is_broken_is_told_so(server: Boatload, api: httpx.AsyncClient) -> None:
    """Such a client is still there."""
    url, _ = await open_batch(api)
    async with connection(server.port) as (reader, writer):
        writer.write(request_head("GET", url, Prefer="wait=60", Transfer_Encoding="chunked"))
        await asyncio.sleep(0.4)
        writer.write(b"zz\r\n")
        problem(await asyncio.wait_for(read_answer(reader), 5), 400, "malformed-request")


async def test_a_thousand_patient_clients_are_all_answered(api: httpx.AsyncClient) -> None:
    url, etag = await open_batch(api)
    headers = {"If-None-Match": etag, "Prefer": "wait=50"}
    waiting = [asyncio.create_task(api.get(url, headers=headers)) for _ in range(1000)]
    await asyncio.sleep(3)
    assert not any(one.done() for one in waiting)
    began = time.monotonic()
    await api.post(f"{url}/seal")
    answers = await asyncio.wait_for(asyncio.gather(*waiting), 60)
    assert {(one.status_code, one.json()["status"]) for one in answers} == {(200, "completed")}
    assert time.monotonic() - began < 40, "woken, not timed out"
