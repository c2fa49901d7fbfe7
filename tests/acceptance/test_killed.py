"""kill -9 under load, again and again: what was acknowledged is there, and every count is right."""

import asyncio
import hashlib
import os
import random
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import httpx
import psutil
import pytest

from app.db.embedded import attach
from tests.support.postgres import fetch
from tests.support.server import Boatload, serving
from tests.support.wire import FORM, File, Json, counts, everything, finished, multipart

KILLS: Final = 10
CLIENTS: Final = 4
SETTINGS: Final = {"lease_seconds": 2, "database_pool_size": 5}

MISCOUNTED: Final = """
WITH counted AS (
    SELECT batch_id, count(*) AS total,
        count(*) FILTER (WHERE status = 'receiving') AS receiving,
        count(*) FILTER (WHERE status = 'pending') AS pending,
        count(*) FILTER (WHERE status = 'processing') AS processing,
        count(*) FILTER (WHERE status = 'completed') AS successful,
        count(*) FILTER (WHERE status = 'failed') AS failed,
        count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
        sum(received_bytes) AS received_bytes
    FROM uploads GROUP BY batch_id
)
SELECT b.*, c.* FROM upload_batches b FULL JOIN counted c ON c.batch_id = b.id
WHERE (b.total_uploads, b.receiving_uploads, b.pending_uploads, b.processing_uploads, b.successful_uploads,
       b.failed_uploads, b.cancelled_uploads, b.received_bytes)
    IS DISTINCT FROM (coalesce(c.total, 0), coalesce(c.receiving, 0), coalesce(c.pending, 0),
       coalesce(c.processing, 0), coalesce(c.successful, 0), coalesce(c.failed, 0), coalesce(c.cancelled, 0),
       coalesce(c.received_bytes, 0))
    OR b.processed_uploads IS DISTINCT FROM b.successful_uploads + b.failed_uploads
"""

MISPLACED: Final = """
SELECT u.id FROM uploads u LEFT JOIN objects o ON o.id = u.object_id
WHERE u.object_id IS NOT NULL AND (o.id IS NULL OR u.object_offset + u.received_bytes > o.size_bytes)
"""
"""Uploads whose bytes lie where the store is not said to have any."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A file that the service has said it holds."""

    filename: str
    size: int
    sha256: str


@dataclass(slots=True)
class Ledger:
    """What clients may rely on."""

    open_url: str = ""
    """The batch that stays open through all of it."""
    uploads: dict[str, Sent] = field(default_factory=dict)
    """By upload id."""
    whole_batches: set[str] = field(default_factory=set)
    """One-shot batches whose request was answered."""


@pytest.fixture
def own_server() -> Iterator[Boatload]:
    with serving(**SETTINGS) as server:
        yield server


@pytest.mark.timeout(300)
def test_everything_acknowledged_survives_ten_kills_under_load(own_server: Boatload) -> None:
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(10**6))
    sys.stdout.write(f"SEED={seed}\n")
    chance = random.Random(seed)
    ledger = Ledger()
    with own_server.client() as client:
        ledger.open_url = client.post("/v1/batches", json={"label": "survivor"}).headers["location"]

    for number in range(KILLS):
        before = set(ledger.uploads)
        asyncio.run(load_until_killed(own_server, ledger, chance, with_postgres=number % 2 == 1))
        own_server.start()
        fresh = sorted(ledger.uploads.keys() - before)
        assert fresh, "nothing was acknowledged in this round; the test tries nothing"
        with own_server.client() as client:
            for upload_id in {*fresh[-20:], *chance.sample(fresh, min(20, len(fresh)))}:
                check_upload(client, upload_id, ledger.uploads[upload_id], with_content=True)
        for wrong in (MISCOUNTED, MISPLACED):
            assert fetch(attach(own_server.data_dir), wrong) == []

    check_the_end(own_server, ledger)


async def load_until_killed(server: Boatload, ledger: Ledger, chance: random.Random, *, with_postgres: bool) -> None:
    """Clients send for a while, then everything falls over under them."""
    async with server.async_client() as client, asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(keep_sending(client, ledger, random.Random(chance.random())))
        await asyncio.sleep(chance.uniform(0.3, 1.2))
        postmaster = server.postmaster()
        assert postmaster is not None
        helpers = [child for child in psutil.Process(server.pid).children() if child != postmaster]
        server.kill()
        if with_postgres:
            postmaster.send_signal(signal.SIGKILL)
    _, orphans = await asyncio.to_thread(psutil.wait_procs, helpers, 20)
    assert [orphan for orphan in orphans if orphan.status() != psutil.STATUS_ZOMBIE] == []


async def keep_sending(client: httpx.AsyncClient, ledger: Ledger, chance: random.Random) -> None:
    """Send one request after another until nobody answers, and note what was answered."""
    while True:
        files = some_files(chance)
        one_shot = chance.random() < 0.5
        try:
            answer = await client.post(
                "/v1/uploads" if one_shot else f"{ledger.open_url}/uploads", content=multipart(*files), headers=FORM
            )
        except httpx.TransportError:
            return
        assert answer.status_code == 201, answer.text
        body = answer.json()
        for file, result in zip(files, body["results"], strict=True):
            ledger.uploads[result["upload"]["id"]] = Sent(str(file.filename), file.size, file.sha256)
        if one_shot:
            ledger.whole_batches.add(body["url"])


def some_files(chance: random.Random) -> list[File]:
    """Mostly a few small ones, sometimes big ones among them."""
    sizes = [chance.choice((0, 10, 1000, 10_000, 60_000)) for _ in range(chance.randint(1, 12))]
    if chance.random() < 0.2:
        sizes[chance.randrange(len(sizes))] = chance.choice(((1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000))
    return [File(f"{chance.randrange(10**9)}.bin", chance.randbytes(size)) for size in sizes]


def check_upload(client: httpx.Client, upload_id: str, sent: Sent, *, with_content: bool) -> None:
    answer = client.get(f"/v1/uploads/{upload_id}")
    assert answer.status_code == 200, answer.text
    upload: Json = answer.json()
    assert Sent(upload["filename"], upload["received_bytes"], upload["sha256"]) == sent
    assert upload["status"] in {"pending", "processing", "completed"}
    if with_content:
        content = client.get(upload["content_url"])
        assert content.status_code == 200
        assert hashlib.sha256(content.content).hexdigest() == sent.sha256


def check_the_end(server: Boatload, ledger: Ledger) -> None:
    """All is there, all is counted, all is finished, and what is open can be."""
    with server.client() as client:
        assert client.post(f"{ledger.open_url}/seal").status_code == 200
        survivor = finished(client, ledger.open_url, seconds=60)
        assert survivor["status"] == "completed"
        for url in sorted(ledger.whole_batches):
            assert finished(client, url, seconds=60)["status"] == "completed"

        listed: dict[str, Json] = {}
        for batch in everything(client, "/v1/batches?limit=1000"):
            uploads = everything(client, f"{batch['url']}/uploads?limit=1000")
            now = client.get(batch["url"]).json()
            if now["version"] == batch["version"]:
                done = sum(upload["status"] == "completed" for upload in uploads)
                assert counts(now)[:2] == (len(uploads), done)
            listed |= {upload["id"]: upload for upload in uploads}
        assert ledger.uploads.keys() <= listed.keys()
        for upload_id, sent in ledger.uploads.items():
            upload = listed[upload_id]
            assert Sent(upload["filename"], upload["size_bytes"], upload["sha256"]) == sent
            assert upload["status"] == "completed"
        for upload_id in random.Random(0).sample(sorted(ledger.uploads), min(200, len(ledger.uploads))):
            check_upload(client, upload_id, ledger.uploads[upload_id], with_content=True)
    for wrong in (MISCOUNTED, MISPLACED):
        assert fetch(attach(server.data_dir), wrong) == []
