"""Many clients on one batch: every snapshot adds up, and nothing is lost or counted twice."""

import asyncio
import random
from collections.abc import Mapping
from typing import Final

import httpx

from tests.support.server import Boatload
from tests.support.wire import (
    FORM,
    File,
    Json,
    all_uploads,
    connection,
    finished,
    multipart,
    read_answer,
    request_head,
)

CLIENTS: Final = 20
REQUESTS: Final = 50
POLLERS: Final = 3
RISING: Final = ("version", "total_uploads", "processed_uploads", "successful_uploads", "failed_uploads", "total_bytes")


def check_snapshot(batch: Mapping[str, object]) -> None:
    """Design: at every moment, for every batch."""
    names = ("receiving", "pending", "processing", "successful", "failed", "cancelled")
    amounts = [batch[f"{name}_uploads"] for name in names]
    assert all(isinstance(amount, int) and amount >= 0 for amount in amounts)
    assert batch["total_uploads"] == sum(amounts), batch  # type: ignore[arg-type]
    assert batch["processed_uploads"] == batch["successful_uploads"] + batch["failed_uploads"], batch  # type: ignore[operator]
    assert (batch["completed_at"] is not None) == (batch["status"] in {"completed", "failed", "cancelled"})
    assert (batch["status"] == "pending") == (batch["total_uploads"] == 0)


async def poll(api: httpx.AsyncClient, url: str, stop: asyncio.Event) -> int:
    """Read the batch again and again; return how many different snapshots there were."""
    last: Json | None = None
    seen = 0
    while not stop.is_set():
        await asyncio.sleep(0.01)
        known = {"if-none-match": f'"{last["version"]}"'} if last else {}
        answer = await api.get(url, headers=known)
        if answer.status_code == 304:
            continue
        batch: Json = answer.json()
        check_snapshot(batch)
        if last:
            assert batch["version"] > last["version"]
            assert all(batch[name] >= last[name] for name in RISING), (last, batch)
        last = batch
        seen += 1
    return seen


def some_file(chance: random.Random, filename: str) -> File:
    return File(filename, chance.randbytes(chance.randrange(3000)))


def finished_on(server: Boatload, url: str) -> Json:
    with server.client() as client:
        return finished(client, url)


async def test_twenty_clients_on_one_batch_lose_nothing_and_every_snapshot_adds_up(server: Boatload) -> None:
    chance = random.Random(10)
    requests = [
        [
            [
                File(f"{client}/{request}/{n}", chance.randbytes(chance.randrange(3000)))
                for n in range(chance.randint(1, 5))
            ]
            for request in range(REQUESTS)
        ]
        for client in range(CLIENTS)
    ]
    async with server.async_client() as api:
        url = (await api.post("/v1/batches")).headers["location"]
        stop = asyncio.Event()

        async def send_all(mine: list[list[File]]) -> None:
            async with connection(server.port) as (reader, writer):
                for files in mine:
                    body = multipart(*files)
                    head = request_head("POST", f"{url}/uploads", **{**FORM, "content-length": len(body)})
                    writer.write(head + body)
                    answer = await asyncio.wait_for(read_answer(reader), 60)
                    assert answer.status_code == 201, answer.text
                    check_snapshot(answer.json()["batch"])
                    results = answer.json()["results"]
                    assert [result["upload"]["sha256"] for result in results] == [file.sha256 for file in files]

        async with asyncio.TaskGroup() as group:
            pollers = [group.create_task(poll(api, url, stop)) for _ in range(POLLERS)]
            async with asyncio.TaskGroup() as senders:
                for mine in requests:
                    senders.create_task(send_all(mine))
            await api.post(f"{url}/seal")
            await asyncio.to_thread(finished_on, server, url)
            stop.set()
        assert min(poller.result() for poller in pollers) > 20

    sent = {str(file.filename): file.sha256 for mine in requests for files in mine for file in files}
    with server.client() as client:
        batch = finished(client, url)
        uploads = all_uploads(client, url)
    assert batch["status"] == "completed"
    assert batch["total_uploads"] == batch["successful_uploads"] == len(uploads) == len(sent)
    assert {upload["filename"]: upload["sha256"] for upload in uploads} == sent
    assert batch["total_bytes"] == sum(upload["size_bytes"] for upload in uploads)
    assert max(upload["version"] for upload in uploads) <= batch["version"]


async def test_only_as_many_as_expected_are_taken_from_a_crowd(server: Boatload) -> None:
    async with server.async_client() as api:
        url = (await api.post("/v1/batches", json={"expected_uploads": 10})).headers["location"]
        body = multipart(File("a", b"x"))
        answers = await asyncio.gather(*(api.post(f"{url}/uploads", content=body, headers=FORM) for _ in range(40)))
        statuses = [answer.status_code for answer in answers]
        assert statuses.count(201) == 10
        assert statuses.count(409) == 30
    with server.client() as client:
        batch = finished(client, url)
        assert (batch["total_uploads"], batch["successful_uploads"]) == (10, 10)


async def test_whatever_is_answered_before_a_cancel_counts_and_nothing_after_it(server: Boatload) -> None:
    async with server.async_client() as api:
        url = (await api.post("/v1/batches")).headers["location"]
        taken: list[str] = []
        body = multipart(File("a", b"x"), File("b", b"y"))

        async def keep_sending() -> None:
            while (answer := await api.post(f"{url}/uploads", content=body, headers=FORM)).status_code == 201:
                taken.extend(result["upload"]["id"] for result in answer.json()["results"])
            assert answer.status_code == 409
            assert answer.json()["type"] == "/problems/batch-closed"

        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(keep_sending())
            await asyncio.sleep(0.5)
            cancelled = (await api.post(f"{url}/cancel")).json()
        after = (await api.get(url)).json()
    assert cancelled == after
    check_snapshot(after)
    with server.client() as client:
        assert sorted(upload["id"] for upload in all_uploads(client, url)) == sorted(taken)


async def test_deleting_uploads_while_they_are_worked_on_keeps_the_account_exact(server: Boatload) -> None:
    async with server.async_client() as api:
        url = (await api.post("/v1/batches")).headers["location"]
        files = [File(f"{number}", b"x" * number) for number in range(200)]
        added = (await api.post(f"{url}/uploads", content=multipart(*files), headers=FORM)).json()
        ids = [result["upload"]["id"] for result in added["results"]]
        doomed = random.Random(4).sample(ids, 100)
        answers = await asyncio.gather(*(api.delete(f"/v1/uploads/{upload_id}") for upload_id in doomed))
        assert {answer.status_code for answer in answers} == {204}
        await api.post(f"{url}/seal")
    with server.client() as client:
        batch = finished(client, url)
        check_snapshot(batch)
        uploads = all_uploads(client, url)
    assert {upload["id"] for upload in uploads} == set(ids) - set(doomed)
    assert (batch["total_uploads"], batch["successful_uploads"]) == (100, 100)
    assert batch["total_bytes"] == batch["received_bytes"] == sum(upload["size_bytes"] for upload in uploads)
