"""Webhooks over HTTP, from a real server to a real receiver."""

import asyncio
from collections.abc import Iterator
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest

from tests.support.postgres import Servers
from tests.support.server import Boatload, serving
from tests.support.webhooks import Receiver, answering, hang, receiving

FILES: Final = {"file": ("a.txt", b"content")}
EVENTS: Final = ["batch.completed", "batch.failed", "batch.cancelled"]


@pytest.fixture(scope="module")
def open_server(postgres_servers: Servers) -> Iterator[Boatload]:
    """A server that may send to loopback, as in development."""
    url = postgres_servers.get("18").create_migrated()
    with serving(database_url=url, webhook_allow_private="true", webhook_timeout_seconds=0.5) as running:
        yield running


async def logged(client: httpx.AsyncClient, delivery_id: str, *, status: str = "", attempts: int = 0) -> dict[str, Any]:
    """The delivery once it is in that state, or has so many attempts with a result."""
    async with asyncio.timeout(30):
        while True:
            shown: dict[str, Any] = (await client.get(f"/v1/webhooks/deliveries/{delivery_id}")).json()
            ended = [one for one in shown["attempts"] if one["duration_seconds"] is not None]
            if shown["status"] == status or (attempts and len(ended) >= attempts):
                return shown
            await asyncio.sleep(0.05)


async def job(client: httpx.AsyncClient) -> str:
    answer = await client.post("/v1/uploads", files=FILES)
    assert answer.status_code == 201
    return str(answer.json()["batch"]["id"])


async def test_a_finished_job_is_told_read_in_the_log_and_told_again(open_server: Boatload) -> None:
    async with open_server.async_client() as client, receiving() as receiver:
        made = await client.post("/v1/webhooks", json={"url": receiver.url()})
        assert made.status_code == 201
        webhook = made.json()
        assert webhook["events"] == EVENTS
        assert made.headers["location"] == f"/v1/webhooks/{webhook['id']}"
        assert "no-store" in made.headers["cache-control"]
        secret = webhook.pop("secret")
        assert (await client.get(made.headers["location"])).json() == webhook
        listed = await client.get("/v1/webhooks")
        assert webhook in listed.json()["items"]
        assert "whsec_" not in listed.text

        batch_id = await job(client)
        (message,) = await receiver.got(1)
        body = message.verified(secret)
        assert body["data"] == (await client.get(f"/v1/batches/{batch_id}")).json()
        assert (body["type"], body["timestamp"]) == ("batch.completed", body["data"]["completed_at"])

        shown = await logged(client, message.id, status="delivered")
        assert (shown["batch_id"], shown["webhook_id"], shown["type"]) == (batch_id, webhook["id"], "batch.completed")
        assert (shown["next_attempt_at"], shown["reason"]) == (None, None)
        (attempt,) = shown["attempts"]
        assert (attempt["number"], attempt["status_code"], attempt["error"]) == (1, 204, None)
        again = await client.post(f"/v1/webhooks/deliveries/{message.id}/redeliver")
        assert (again.status_code, again.json()["status"]) == (202, "pending")
        await receiver.got(2)
        assert receiver.messages[1].id == message.id
        assert receiver.messages[1].body == message.body
        assert (await client.delete(f"/v1/webhooks/{webhook['id']}")).status_code == 204
        assert (await client.get(f"/v1/webhooks/{webhook['id']}")).status_code == 404


async def test_a_batch_may_name_a_url_of_its_own(open_server: Boatload) -> None:
    async with open_server.async_client() as client, receiving() as receiver:
        opened = await client.post("/v1/batches", json={"webhook_url": receiver.url()})
        assert opened.status_code == 201
        await client.post(f"/v1/batches/{opened.json()['id']}/cancel")
        (message,) = await receiver.got(1)
        secret = (await client.post("/v1/webhooks/rotate")).json()["secret"]
        await client.post(f"/v1/webhooks/deliveries/{message.id}/redeliver")
        await receiver.got(2)
        body = receiver.messages[1].verified(secret)
        assert (body["type"], body["data"]["id"]) == ("batch.cancelled", opened.json()["id"])


async def test_the_log_is_paged_and_filtered(open_server: Boatload) -> None:
    async with open_server.async_client() as client, receiving() as receiver, receiving(hang) as hanging:
        batches = []
        for one in (receiver, receiver, hanging):
            opened = await client.post("/v1/batches", json={"webhook_url": one.url()})
            batches.append(opened.json()["id"])
            await client.post(f"/v1/batches/{batches[-1]}/seal")
        await receiver.got(2)
        (message,) = await hanging.got(1)
        shown = await logged(client, message.id, attempts=1)
        assert shown["attempts"][0]["error"] == "no answer within 0.5 seconds"
        assert shown["status"] == "pending"
        assert shown["next_attempt_at"] is not None
        of_batch = (await client.get("/v1/webhooks/deliveries", params={"batch_id": batches[0]})).json()["items"]
        assert [one["id"] for one in of_batch] == [receiver.messages[0].id]
        pending = (await client.get("/v1/webhooks/deliveries", params={"status": "pending"})).json()["items"]
        assert [one["id"] for one in pending] == [message.id]
        url, found = "/v1/webhooks/deliveries?limit=1", []
        while url:
            page = await client.get(url)
            found += [one["batch_id"] for one in page.json()["items"]]
            assert (page.json()["next_cursor"] is None) == ("next" not in page.links)
            url = page.links.get("next", {}).get("url", "")
        assert [one for one in found if one in batches] == batches[::-1]


def test_what_is_not_there_is_not_found(client: httpx.Client) -> None:
    for path in (f"/v1/webhooks/{uuid4()}", "/v1/webhooks/x", f"/v1/webhooks/deliveries/{uuid4()}"):
        assert client.get(path).json()["type"] == "/problems/not-found"
    assert client.delete(f"/v1/webhooks/{uuid4()}").status_code == 404
    assert client.post(f"/v1/webhooks/deliveries/{uuid4()}/redeliver").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"url": 5},
        {"url": "https://a.example/", "events": []},
        {"url": "https://a.example/", "events": ["x"]},
        {"a": 1},
    ],
)
def test_a_body_that_does_not_fit_is_an_invalid_request(client: httpx.Client, body: dict[str, object]) -> None:
    answer = client.post("/v1/webhooks", json=body)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
    assert client.get("/v1/webhooks/deliveries", params={"status": "x"}).status_code == 422
    assert client.get("/v1/webhooks/deliveries", params={"cursor": "x"}).json()["type"] == "/problems/invalid-cursor"


async def refused(client: httpx.AsyncClient, receiver: Receiver) -> str:
    opened = await client.post("/v1/batches", json={"webhook_url": receiver.url()})
    await client.post(f"/v1/batches/{opened.json()['id']}/seal")
    (message,) = await receiver.got(1)
    await logged(client, message.id, attempts=1)
    return message.id


async def test_neither_secrets_nor_urls_are_in_the_log_of_the_service(open_server: Boatload) -> None:
    async with open_server.async_client() as client, receiving(answering(500)) as receiver:
        await client.post("/v1/webhooks", json={"url": "https://user:s3cret@example.com/"})
        secret = (await client.post("/v1/webhooks/rotate")).json()["secret"]
        delivery_id = await refused(client, receiver)
    assert delivery_id in open_server.log
    assert "webhook attempt failed" in open_server.log
    for hidden in ("whsec_", secret, "s3cret", "/hook"):
        assert hidden not in open_server.log
