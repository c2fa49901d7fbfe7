"""Followers whose connections are cut, whose database restarts, whose server stops: none of them misses the end."""

import asyncio
import random
import signal
import socket
import time
from collections.abc import Iterator

import httpx
import pytest
from playwright.async_api import Page

from app.db import migrate
from app.db.embedded import EmbeddedPostgres
from tests.support.postgres import Servers, apart
from tests.support.server import Boatload, folder, serving
from tests.support.wire import FINAL, FORM, File, Json, all_uploads, connection, following, multipart, request_head

SMALL = File("small", b"small")


@pytest.fixture
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of our own, to stop and start at will."""
    with folder() as path:
        database = EmbeddedPostgres(path)
        apart(lambda: migrate.upgrade(database.start()))
        yield database
        database.stop()


async def open_batch(api: httpx.AsyncClient) -> str:
    url: str = (await api.post("/v1/batches")).headers["location"]
    return url


async def fill(api: httpx.AsyncClient, url: str, requests: int, files: int) -> None:
    """Send files into a batch in several requests, and seal it."""
    body = multipart(*[SMALL] * files)
    for _ in range(requests):
        assert (await api.post(f"{url}/uploads", content=body, headers=FORM)).status_code == 201
    await api.post(f"{url}/seal")


class Follower:
    """An event source that goes on from the last id it has, as a browser does, whatever becomes of its connections."""

    def __init__(self, port: int, url: str) -> None:
        self.uploads: dict[str, Json] = {}
        self.batch: Json = {"version": 0}
        self.connections = 0
        self._port = port
        self._url = url
        self._last_id = "0"

    async def follow(self, *, cut_after: float | None = None) -> None:
        """Follow until the service says that there is nothing more."""
        while await self._connect(cut_after):
            pass

    async def _connect(self, cut_after: float | None) -> bool:
        self.connections += 1
        try:
            async with (
                asyncio.timeout(cut_after),
                following(self._port, f"{self._url}/events", Last_Event_ID=self._last_id) as events,
            ):
                if events.status == 204:
                    return False
                if events.status != 200:
                    await asyncio.sleep(0.1)
                    return True
                async for event in events:
                    self._last_id = event.id
                    if event.name == "batch":
                        assert event.data["version"] >= self.batch["version"]
                        self.batch = event.data
                    else:
                        known = self.uploads.get(event.data["id"])
                        assert known is None or event.data["version"] >= known["version"]
                        self.uploads[event.data["id"]] = event.data
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.01)
        return True


@pytest.mark.parametrize("cut_after", [0.3, 0.05])
async def test_a_follower_that_is_cut_again_and_again_sees_every_end(
    postgres_servers: Servers, cut_after: float
) -> None:
    with serving(database_url=postgres_servers.get("18").create_migrated()) as server, server.client() as client:
        async with server.async_client() as api:
            url = await open_batch(api)
            follower = Follower(server.port, url)
            follow = asyncio.create_task(follower.follow(cut_after=cut_after))
            await fill(api, url, 30, 110)
            await asyncio.wait_for(follow, 90)
        assert follower.connections > 3
        assert follower.batch["status"] == "completed"
        assert len(follower.uploads) == 3300
        assert follower.uploads == {one["id"]: one for one in await asyncio.to_thread(all_uploads, client, url)}


async def test_followers_go_on_when_the_database_restarts(postgres: EmbeddedPostgres) -> None:
    with serving(database_url=postgres.dsn, lease_seconds=2) as server:
        async with server.async_client() as api:
            url = await open_batch(api)
            uncut = Follower(server.port, url)
            follow = asyncio.create_task(uncut.follow())
            patient = asyncio.create_task(api.get(url, headers={"Prefer": "wait=60"}))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(postgres.stop)
            await asyncio.sleep(1)
            await asyncio.to_thread(postgres.start)
            came_back = time.monotonic()
            async with asyncio.timeout(20):
                while (await api.get("/readyz")).status_code != 200:
                    await asyncio.sleep(0.05)
            await fill(api, url, 3, 50)
            moved = await asyncio.wait_for(patient, 10)
            assert moved.status_code == 200
            assert moved.json()["version"] > 1
            assert time.monotonic() - came_back < 10
            await asyncio.wait_for(follow, 60)
            assert uncut.connections == 2, "one that went through all of it, and one that was told to stop"
            assert uncut.batch["status"] == "completed"
            assert {one["status"] for one in uncut.uploads.values()} == {"completed"}
            assert len(uncut.uploads) == 150


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_ends_what_waits_at_once_and_cleanly(postgres_servers: Servers, number: signal.Signals) -> None:
    with serving(database_url=postgres_servers.get("18").create_migrated()) as server:
        async with server.async_client() as api:
            url = await open_batch(api)
            followers = [asyncio.create_task(read_to_the_end(server, url)) for _ in range(50)]
            patient = [asyncio.create_task(api.get(url, headers={"Prefer": "wait=60"})) for _ in range(20)]
            async with connection(server.port) as (_, writer):  # one that asks for much and reads nothing
                writer.write(request_head("GET", f"{url}/events?last_event_id=0"))
                async with asyncio.timeout(10):
                    while server.log.count('"request"') < 1:
                        await asyncio.sleep(0.05)
                await asyncio.sleep(1)
                began = time.monotonic()
                code = await asyncio.to_thread(server.stop, number)
                took = time.monotonic() - began
            for follower in followers:
                assert (await follower)["status"] == "pending"
            for answer in await asyncio.gather(*patient):
                assert (answer.status_code, answer.json()["version"]) == (200, 1)
            assert took < 3
            assert code in {0, -number, 128 + number}
            for fault in ("Traceback", "exception", "never retrieved", "Cancel", '"level":"error"'):
                assert fault not in server.log


async def test_a_stop_does_not_wait_for_who_reads_nothing(postgres_servers: Servers) -> None:
    with serving(database_url=postgres_servers.get("18").create_migrated(), worker=False) as server:
        async with server.async_client() as api:
            url = await open_batch(api)
            await fill(api, url, 6, 1000)
            with socket.socket() as stalled:
                stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                stalled.connect(("127.0.0.1", server.port))
                stalled.sendall(request_head("GET", f"{url}/events?last_event_id=0"))
                await asyncio.sleep(1.5)
                began = time.monotonic()
                await asyncio.to_thread(server.stop)
                assert 1 <= time.monotonic() - began < 5


async def read_to_the_end(server: Boatload, url: str) -> Json:
    """Return the last snapshot of a stream that must end in good order."""
    batch: Json = {}
    async with following(server.port, f"{url}/events") as events:
        async for event in events:
            batch = event.data
    return batch


async def test_a_browser_follows_through_cuts_and_stops_at_the_end(server: Boatload, page: Page) -> None:
    await page.goto(f"{server.url}/docs")
    async with server.async_client() as api:
        url = await open_batch(api)
        await page.evaluate(
            """url => {
                window.uploads = {}; window.batches = []; window.opened = 0;
                window.source = new EventSource(url + '/events?last_event_id=0');
                source.addEventListener('open', () => window.opened++);
                source.addEventListener('batch', event => batches.push(JSON.parse(event.data)));
                source.addEventListener('upload', event => {
                    const upload = JSON.parse(event.data);
                    uploads[upload.id] = upload.status;
                });
            }""",
            url,
        )
        await fill(api, url, 3, 100)
        await page.wait_for_function("source.readyState === EventSource.CLOSED", timeout=60_000)
        batches = await page.evaluate("batches")
        states = await page.evaluate("Object.values(uploads)")
    versions = [batch["version"] for batch in batches]
    assert versions == sorted(set(versions))
    assert batches[-1]["status"] in FINAL
    assert states == ["completed"] * 300
    assert await page.evaluate("opened") >= 1


async def test_many_followers_of_many_batches_all_see_their_own_end(server: Boatload) -> None:
    async with server.async_client() as api:
        urls = [await open_batch(api) for _ in range(20)]
        chosen = random.Random(1).choices(urls, k=200)
        followers = [Follower(server.port, url) for url in chosen]
        follow = asyncio.gather(*(one.follow() for one in followers))
        await asyncio.gather(*(fill(api, url, 2, 5) for url in urls))
        await asyncio.wait_for(follow, 60)
    for url, follower in zip(chosen, followers, strict=True):
        assert follower.batch["url"] == url
        assert follower.batch["status"] == "completed"
        assert [one["status"] for one in follower.uploads.values()] == ["completed"] * 10
