"""A batch as an event stream, over a bare socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import httpx
import pytest

from tests.support.postgres import Servers
from tests.support.server import Boatload, serving
from tests.support.wire import (
    FINAL,
    FORM,
    Event,
    EventReader,
    File,
    Json,
    connection,
    following,
    multipart,
    problem,
    read_answer,
    request_head,
)

SMALL = File("small", b"small")


@pytest.fixture
async def api(server: Boatload) -> AsyncIterator[httpx.AsyncClient]:
    async with server.async_client() as opened:
        yield opened


@asynccontextmanager
async def followed(server: Boatload, url: str, **headers: object) -> AsyncIterator[EventReader]:
    async with asyncio.timeout(30), following(server.port, f"{url}/events", **headers) as events:
        yield events


async def add(api: httpx.AsyncClient, url: str, *files: File) -> httpx.Response:
    """Send files into a batch."""
    return await api.post(f"{url}/uploads", content=multipart(*files), headers=FORM)


async def end(api: httpx.AsyncClient, url: str) -> Json:
    """Wait for a batch's final state."""
    async with asyncio.timeout(30):
        while (batch := (await api.get(url)).json())["status"] not in FINAL:
            await asyncio.sleep(0.05)
    return batch


async def uploads_of(api: httpx.AsyncClient, url: str) -> dict[str, Json]:
    """Every upload of a batch, by its id."""
    found: list[Json] = []
    following: str | None = f"{url}/uploads?limit=1000"
    while following:
        answer = await api.get(following)
        found += answer.json()["items"]
        following = answer.links.get("next", {}).get("url")
    return {one["id"]: one for one in found}


async def everything(events: EventReader) -> list[Event]:
    return [event async for event in events]


def check_order(found: list[Event]) -> None:
    """Ids never go back, and an event's id is that of what it holds."""
    places = [(int(version), upload or "~") for version, _, upload in (event.id.partition(":") for event in found)]
    assert places == sorted(set(places))
    for event in found:
        wanted = str(event.data["version"]) if event.name == "batch" else f"{event.data['version']}:{event.data['id']}"
        assert event.id == wanted


def last_states(found: list[Event]) -> dict[str, Json]:
    return {event.data["id"]: event.data for event in found if event.name == "upload"}


async def test_a_batch_is_followed_from_its_snapshot_to_its_end(server: Boatload, api: httpx.AsyncClient) -> None:
    url = (await api.post("/v1/batches")).headers["location"]
    async with followed(server, url) as events:
        assert events.status == 200
        assert events.headers["content-type"].startswith("text/event-stream")
        assert events.headers["cache-control"] == "no-store"
        assert events.headers["x-accel-buffering"] == "no"
        assert events.headers["x-request-id"]
        stream = aiter(events)
        first = await anext(stream)
        assert (first.name, first.data, first.id) == ("batch", (await api.get(url)).json(), "1")
        assert events.retry == 1000
        await add(api, url, SMALL, SMALL, File("../refused"))
        await api.post(f"{url}/seal")
        found = [first, *[event async for event in stream]]
    check_order(found)
    assert found[-1].name == "batch"
    assert found[-1].data == (await api.get(url)).json()
    assert found[-1].data["status"] == "completed"
    assert [event.data["status"] in FINAL for event in found if event.name == "batch"].count(True) == 1
    assert last_states(found) == await uploads_of(api, url)


async def test_replay_gives_what_changed_since_and_zero_gives_all(server: Boatload, api: httpx.AsyncClient) -> None:
    url = (await api.post("/v1/batches")).headers["location"]
    await add(api, url, *[SMALL] * 250)
    await api.post(f"{url}/seal")
    final = await end(api, url)
    uploads = await uploads_of(api, url)
    async with followed(server, url, Last_Event_ID="0") as events:
        found = await everything(events)
    check_order(found)
    assert last_states(found) == uploads
    assert len(found) == 251
    assert found[-1].data == final
    for place in (0, 99, 100, 137, 249):
        async with followed(server, url, Last_Event_ID=found[place].id) as events:
            assert await everything(events) == found[place + 1 :]
    async with following(server.port, f"{url}/events?last_event_id={found[100].id}") as events:
        assert await everything(events) == found[101:]
    async with following(
        server.port, f"{url}/events?last_event_id=0", Last_Event_ID=found[200].id
    ) as events:  # a browser's reconnect: the same address, and the header
        assert await everything(events) == found[201:]


async def test_who_has_the_final_state_is_told_to_stop(server: Boatload, api: httpx.AsyncClient) -> None:
    url = (await api.post("/v1/batches")).headers["location"]
    await api.post(f"{url}/seal")
    async with followed(server, url) as events:
        (only,) = await everything(events)
    assert only.data["status"] == "completed"
    assert (await api.get(f"{url}/events", headers={"Last-Event-ID": only.id})).status_code == 204
    assert (await api.get(f"{url}/events?last_event_id={only.id}")).status_code == 204
    for odd in ("999", f"0:{uuid4()}", f"{only.id}:{uuid4()}"):  # ids from elsewhere cost a snapshot, not a loop
        answer = await api.get(f"{url}/events", headers={"Last-Event-ID": odd})
        assert answer.status_code == 200
        assert f"id: {only.id}\n" in answer.text


async def test_malformed_ids_and_batches_that_are_not_there_are_problems(api: httpx.AsyncClient) -> None:
    url = (await api.post("/v1/batches")).headers["location"]
    for odd in ("x", "-1", "1:", "1:2", "1.5", "9223372036854775808", "é", "1,2"):
        headers = {"Last-Event-ID": odd.encode("latin-1")}
        problem(await api.get(f"{url}/events", headers=headers), 422, "invalid-event-id")
        problem(await api.get(f"{url}/events", params={"last_event_id": odd}), 422, "invalid-event-id")
    problem(await api.get(f"{url}/events?uploads=perhaps"), 422, "invalid-request")
    for missing in (f"/v1/batches/{uuid4()}/events", "/v1/batches/x/events"):
        problem(await api.get(missing), 404, "not-found")
        problem(await api.get(missing, headers={"Last-Event-ID": "0"}), 404, "not-found")


async def test_snapshots_alone_where_the_uploads_are_not_wanted(server: Boatload, api: httpx.AsyncClient) -> None:
    url = (await api.post("/v1/batches")).headers["location"]
    async with following(server.port, f"{url}/events?uploads=false") as events:
        stream = aiter(events)
        found = [await anext(stream)]
        await add(api, url, SMALL, SMALL)
        await api.post(f"{url}/seal")
        found += [event async for event in stream]
    assert {event.name for event in found} == {"batch"}
    check_order(found)
    assert found[-1].data["status"] == "completed"


async def test_a_deleted_batch_ends_its_streams(server: Boatload, api: httpx.AsyncClient) -> None:
    url = (await api.post("/v1/batches")).headers["location"]
    async with followed(server, url) as events:
        stream = aiter(events)
        await anext(stream)
        await api.delete(url)
        assert [event async for event in stream] == []
    problem(await api.get(f"{url}/events", headers={"Last-Event-ID": events.last_id}), 404, "not-found")


async def test_a_deleted_upload_shows_in_the_counts(server: Boatload, api: httpx.AsyncClient) -> None:
    url = (await api.post("/v1/batches")).headers["location"]
    answer = await add(api, url, File("../refused"), File("../refused"))
    upload = answer.json()["results"][0]["upload"]
    async with followed(server, url) as events:
        stream = aiter(events)
        assert (await anext(stream)).data["total_uploads"] == 2
        await api.delete(f"/v1/uploads/{upload['id']}")
        event = await anext(stream)
    assert (event.name, event.data["total_uploads"]) == ("batch", 1)


async def test_a_quiet_stream_shows_that_it_lives(postgres_servers: Servers) -> None:
    url = postgres_servers.get("18").create_migrated()
    with serving(database_url=url, heartbeat_seconds=0.2) as server:
        async with server.async_client() as api:
            batch = (await api.post("/v1/batches")).headers["location"]
            async with followed(server, batch) as events:
                stream = aiter(events)
                await anext(stream)
                waiting = asyncio.create_task(anext(stream))
                async with asyncio.timeout(10):
                    while events.comments < 5:
                        await asyncio.sleep(0.05)
                assert not waiting.done()
                await api.post(f"{batch}/seal")
                assert (await waiting).data["status"] == "completed"


@pytest.mark.parametrize("leaving", ["closes", "resets", "closes its half"])
async def test_a_follower_that_goes_away_is_noticed(server: Boatload, api: httpx.AsyncClient, leaving: str) -> None:
    url = (await api.post("/v1/batches")).headers["location"]
    name = f"follower-{leaving.replace(' ', '-')}"
    async with connection(server.port) as (reader, writer):
        writer.write(request_head("GET", f"{url}/events", X_Request_Id=name))
        await reader.readuntil(b"event: batch")
        if leaving == "resets":
            writer.transport.abort()
        elif leaving == "closes its half":
            writer.write_eof()
            await reader.read()
    async with asyncio.timeout(5):
        while f'"{name}"' not in server.log:
            await asyncio.sleep(0.05)
    assert "Exception in ASGI application" not in server.log


async def test_a_follower_that_does_not_read_holds_up_nobody(server: Boatload, api: httpx.AsyncClient) -> None:
    url = (await api.post("/v1/batches")).headers["location"]
    async with connection(server.port) as (_, writer):
        writer.write(request_head("GET", f"{url}/events?last_event_id=0"))
        async with followed(server, url) as events:
            stream = aiter(events)
            await anext(stream)
            for _ in range(5):
                await add(api, url, *[File("../refused")] * 1000)
            await api.post(f"{url}/seal")
            found = [event async for event in stream]
        assert len(last_states(found)) == 5000
        assert found[-1].data["status"] == "failed"
        assert (await api.get(url)).json()["failed_uploads"] == 5000


async def test_head_is_not_a_stream(server: Boatload, api: httpx.AsyncClient) -> None:
    url = (await api.post("/v1/batches")).headers["location"]
    async with connection(server.port) as (reader, writer):
        writer.write(request_head("POST", f"{url}/events", Content_Length=0))
        assert (await asyncio.wait_for(read_answer(reader), 10)).status_code == 405
