"""`Idempotency-Key`: a request that is sent again has one effect and one answer, whichever POST it is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest

from tests.support.postgres import Servers
from tests.support.server import Boatload, serving
from tests.support.tus import VERSION
from tests.support.wire import FORM, File, Json, finished, multipart, problem, send

SAID: Final = ("location", "etag", "content-type", "cache-control", "retry-after", "upload-offset")
"""What a replay says as well."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request, another one to the same URL where there is any, and what it does as one number."""

    url: str
    sent: dict[str, Any]
    other: dict[str, Any] | None
    effect: Callable[[], int]


def opened(client: httpx.Client, **fields: object) -> str:
    location: str = client.post("/v1/batches", json=fields).headers["location"]
    return location


def version_of(client: httpx.Client, batch: str) -> Callable[[], int]:
    return lambda: client.get(batch).json()["version"]


def batches_of(client: httpx.Client) -> Callable[[], int]:
    return lambda: len({one["id"] for one in client.get("/v1/batches?limit=1000").json()["items"]})


def opening(client: httpx.Client) -> Case:
    return Case("/v1/batches", {"json": {"label": "a"}}, {"json": {"label": "b"}}, batches_of(client))


def filling(client: httpx.Client) -> Case:
    batch = opened(client)
    sent, other = ({"content": multipart(File("a", b"x"), File("b", end)), "headers": FORM} for end in (b"y", b"z"))
    return Case(f"{batch}/uploads", sent, other, lambda: client.get(batch).json()["total_uploads"])


def doing_all(client: httpx.Client) -> Case:
    sent, other = ({"content": multipart(File("a", b"x"), File("b", end)), "headers": FORM} for end in (b"y", b"z"))
    return Case("/v1/uploads", sent, other, batches_of(client))


def declaring(client: httpx.Client) -> Case:
    batch = opened(client)
    sent, other = ({"json": {"entries": [{"ref": name, "filename": "a", "size_bytes": 1}]}} for name in ("a", "b"))
    return Case(f"{batch}/manifest", sent, other, version_of(client, batch))


def sealing(client: httpx.Client) -> Case:
    batch = opened(client)
    return Case(f"{batch}/seal", {}, {"content": b"{}"}, version_of(client, batch))


def cancelling(client: httpx.Client) -> Case:
    batch = opened(client)
    return Case(f"{batch}/cancel", {}, {"content": b"{}"}, version_of(client, batch))


def retrying(client: httpx.Client) -> Case:
    batch = send(client, "/v1/uploads", File("a.jpg", b"\xff\xd8\xff\xe0 no picture")).json()["url"]
    assert finished(client, batch)["status"] == "failed"

    def attempts() -> int:
        finished(client, batch)
        (upload,) = client.get(f"{batch}/uploads").json()["items"]
        count: int = upload["attempts"]
        return count

    return Case(f"{batch}/retry", {"json": {}}, {"json": {"upload_ids": []}}, attempts)


def hooking(client: httpx.Client) -> Case:
    sent, other = ({"json": {"url": f"https://example.org/{name}"}} for name in ("a", "b"))
    return Case("/v1/webhooks", sent, other, lambda: len(client.get("/v1/webhooks").json()["items"]))


def rotating(client: httpx.Client) -> Case:
    hook = client.post("/v1/webhooks", json={"url": "https://example.org/"}).json()["id"]
    client.delete(f"/v1/webhooks/{hook}")
    return Case("/v1/webhooks/rotate", {}, None, lambda: 0)


def redelivering(client: httpx.Client) -> Case:
    batch = opened(client, webhook_url="https://boatload.invalid/")
    client.post(f"{batch}/seal")
    delivery, *_ = client.get(f"/v1/webhooks/deliveries?batch_id={batch.rpartition('/')[2]}").json()["items"]
    return Case(f"/v1/webhooks/deliveries/{delivery['id']}/redeliver", {}, None, lambda: 0)


def creating(client: httpx.Client) -> Case:
    sent, other = ({"headers": VERSION | {"upload-length": length}} for length in ("1", "2"))
    return Case("/v1/tus", sent, other, batches_of(client))


def lending(client: httpx.Client) -> Case:
    sent, other = ({"json": {"expires_in_seconds": seconds}} for seconds in (60, 61))
    return Case(f"{opened(client)}/tokens", sent, other, lambda: 0)


CASES: Final = {
    "/v1/batches/{batch_id}/tokens": lending,
    "/v1/tus": creating,
    "/v1/batches": opening,
    "/v1/batches/{batch_id}/uploads": filling,
    "/v1/uploads": doing_all,
    "/v1/batches/{batch_id}/manifest": declaring,
    "/v1/batches/{batch_id}/seal": sealing,
    "/v1/batches/{batch_id}/cancel": cancelling,
    "/v1/batches/{batch_id}/retry": retrying,
    "/v1/webhooks": hooking,
    "/v1/webhooks/rotate": rotating,
    "/v1/webhooks/deliveries/{delivery_id}/redeliver": redelivering,
}


UNCOUNTED: Final = {
    "/v1/batches/{batch_id}/tokens",
    "/v1/webhooks/rotate",
    "/v1/webhooks/deliveries/{delivery_id}/redeliver",
}
"""What these do is in their answer alone."""


def post(client: httpx.Client, case: Case, key: str, *, other: bool = False) -> httpx.Response:
    sent = (case.other if other else case.sent) or {}
    return client.post(case.url, **{**sent, "headers": {**sent.get("headers", {}), "idempotency-key": key}})


def said(answer: httpx.Response) -> tuple[int, bytes, list[str | None]]:
    return answer.status_code, answer.content, [answer.headers.get(name) for name in SAID]


@pytest.fixture(scope="module")
def own_server(postgres_servers: Servers) -> Iterator[Boatload]:
    with serving(database_url=postgres_servers.get("18").create_migrated()) as running:
        yield running


@pytest.fixture
def client(own_server: Boatload) -> Iterator[httpx.Client]:
    with own_server.client() as opened:
        yield opened


@pytest.fixture
def key() -> str:
    return f"key {uuid4()}"


def test_no_post_is_forgotten(client: httpx.Client) -> None:
    document: Json = client.get("/openapi.json").json()
    posts = {path: operations["post"] for path, operations in document["paths"].items() if "post" in operations}
    assert posts.keys() == CASES.keys()
    for path, operation in posts.items():
        assert "Idempotency-Key" in [one["name"] for one in operation["parameters"]], path
        assert {"400", "409", "422"} <= operation["responses"].keys(), path


@pytest.mark.parametrize("path", CASES)
def test_a_post_that_is_sent_again_has_one_effect_and_one_answer(client: httpx.Client, path: str, key: str) -> None:
    case = CASES[path](client)
    before = case.effect()
    first = post(client, case, key)
    assert 200 <= first.status_code < 300, first.text
    after = case.effect()
    for _ in range(2):
        assert said(post(client, case, key)) == said(first)
    assert case.effect() == after
    assert after > before or path in UNCOUNTED


@pytest.mark.parametrize("path", CASES)
def test_a_key_of_another_request_answers_422_and_changes_nothing(client: httpx.Client, path: str, key: str) -> None:
    case = CASES[path](client)
    first = post(client, case, key)
    after = case.effect()
    if case.other is not None:
        problem(post(client, case, key, other=True), 422, "idempotency-key-reused")
    elsewhere = client.post("/v1/batches", json={"label": "elsewhere"}, headers={"idempotency-key": key})
    problem(elsewhere, 422, "idempotency-key-reused")
    assert case.effect() == after
    assert said(post(client, case, key)) == said(first)
