"""Tokens for one batch: every door into it and every read of it, and nothing else."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Any
from uuid import uuid4

import httpx
import pytest
from playwright.async_api import Page

from app.domain.access import AccessScope
from tests.acceptance.auth.conftest import OWNER, Guarded
from tests.support.credentials import bearer, make_key, make_key_row, revoke_key
from tests.support.server import ROOT
from tests.support.tus import BODY, VERSION, metadata
from tests.support.wire import File, Text, finished, following, problem, send

Json = dict[str, Any]
_numbers = count()
OPENAPI: Json = json.loads((ROOT / "openapi.json").read_text())
REACHED = {
    *("read_batch", "list_uploads", "follow_batch", "add_uploads", "declare_files", "create_token", "put_file"),
    *("read_upload", "read_content", "head_content", "put_content", "read_thumbnail", "list_attempts"),
    *("upload_files", "create_upload", "read_offset", "append_bytes"),
}
"""The operations that a token may ask for."""


@dataclass(frozen=True, slots=True)
class Lent:
    """An open batch with one upload in it, a client with a token for it, and the owner's."""

    batch: Json
    upload: Json
    token: Json
    client: httpx.Client
    owner: httpx.Client

    @property
    def url(self) -> str:
        url: str = self.batch["url"]
        return url


def lend(owner: httpx.Client, batch_url: str, **body: int) -> Json:
    answer = owner.post(f"{batch_url}/tokens", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    token: Json = answer.json()
    return token


def new_bytes() -> bytes:
    return f"bytes {next(_numbers)} of a token's test".encode()


@pytest.fixture
def lent(guarded: Guarded, owner: httpx.Client) -> Iterator[Lent]:
    batch = owner.post("/v1/batches", json={}).json()
    upload = send(owner, f"{batch['url']}/uploads", File("a", new_bytes())).json()["results"][0]["upload"]
    token = lend(owner, batch["url"])
    with guarded.client(token["token"]) as client:
        yield Lent(batch, upload, token, client, owner)


def by_multipart(lent: Lent) -> httpx.Response:
    return send(lent.client, f"{lent.url}/uploads", File("b", new_bytes()))


def by_ref(lent: Lent) -> httpx.Response:
    return send(lent.client, f"{lent.url}/uploads?ref=filename", File("b", new_bytes()))


def by_one_shot(lent: Lent) -> httpx.Response:
    return send(lent.client, "/v1/uploads", Text("batch_id", lent.batch["id"]), File("b", new_bytes()))


def by_put(lent: Lent) -> httpx.Response:
    return lent.client.put(f"{lent.url}/files/b", content=new_bytes())


def by_manifest(lent: Lent) -> httpx.Response:
    data = new_bytes()
    entry = {"ref": "b", "filename": "b", "size_bytes": len(data)}
    [declared] = lent.client.post(f"{lent.url}/manifest", json={"entries": [entry]}).json()["entries"]
    return lent.client.put(declared["content_url"], content=data)


def by_tus(lent: Lent) -> httpx.Response:
    data = new_bytes()
    headers = VERSION | {"upload-length": str(len(data)), "upload-metadata": metadata(batch_id=lent.batch["id"])}
    made = lent.client.post("/v1/tus", headers=headers)
    assert made.status_code == 201, made.text
    assert lent.client.head(made.headers["location"], headers=VERSION).headers["upload-offset"] == "0"
    return lent.client.patch(made.headers["location"], content=data, headers=VERSION | BODY | {"upload-offset": "0"})


@pytest.mark.parametrize("door", [by_multipart, by_ref, by_one_shot, by_put, by_manifest, by_tus])
def test_every_door_into_the_batch_is_open(lent: Lent, door: Callable[[Lent], httpx.Response]) -> None:
    answer = door(lent)
    assert answer.status_code in {201, 204}, answer.text
    assert lent.client.get(lent.url).json()["total_uploads"] == 2


def test_all_of_the_batch_can_be_read(lent: Lent) -> None:
    upload = f"/v1/uploads/{lent.upload['id']}"
    for path in (lent.url, f"{lent.url}/uploads", upload, f"{upload}/attempts", f"{upload}/content"):
        assert lent.client.get(path).status_code == 200
    assert lent.client.head(f"{upload}/content").status_code == 200
    problem(lent.client.get(f"{upload}/thumbnail"), 404, "no-thumbnail")


OPERATIONS = [
    (operation["operationId"], method.upper(), path)
    for path, operations in OPENAPI["paths"].items()
    for method, operation in operations.items()
    if operation["security"]
]


def ask(client: httpx.Client, method: str, path: str) -> httpx.Response:
    """Ask, and read what is wrong; a stream of events would go on for as long as its batch is open."""
    with client.stream(method, path, headers=VERSION) as answer:
        if answer.is_error:
            answer.read()
    return answer


@pytest.mark.parametrize(("name", "method", "path"), OPERATIONS)
def test_a_token_reaches_no_other_operation_and_nothing_of_other_batches(
    lent: Lent, name: str, method: str, path: str
) -> None:
    """With the ids of another batch of the same owner, and with those of its own."""
    other = send(lent.owner, "/v1/uploads", File("a", new_bytes())).json()
    others = {"batch_id": other["batch"]["id"], "upload_id": other["results"][0]["upload"]["id"]}
    own = {"batch_id": lent.batch["id"], "upload_id": lent.upload["id"]}
    rest = {"webhook_id": uuid4(), "delivery_id": uuid4(), "path": "x"}
    finished(lent.owner, other["url"])
    while lent.owner.get(lent.url).json()["processed_uploads"] < 1:
        time.sleep(0.05)
    before = lent.owner.get(lent.url).content, lent.owner.get(other["url"]).content
    answers = [ask(lent.client, method, path.format(**(ids | rest))) for ids in (others, own)]
    statuses = [answer.status_code for answer in answers]
    if name not in REACHED:
        assert statuses == [403, 403]
        problem(answers[0], 403, "forbidden")
        assert before == (lent.owner.get(lent.url).content, lent.owner.get(other["url"]).content)
    elif "_id}" in path:
        assert statuses[0] == 404
        assert method == "HEAD" or answers[0].json()["type"] == "/problems/not-found"
        assert statuses[1] not in {401, 403}
    assert lent.owner.get(other["url"]).status_code == 200


def test_a_token_adds_to_no_batch_but_its_own(lent: Lent) -> None:
    other = lent.owner.post("/v1/batches", json={}).json()["id"]
    problem(send(lent.client, "/v1/uploads", File("b", b"x")), 403, "forbidden")
    problem(send(lent.client, "/v1/uploads", Text("batch_id", other), File("b", b"x")), 404, "not-found")
    length = VERSION | {"upload-length": "1"}
    problem(lent.client.post("/v1/tus", headers=length), 403, "forbidden")
    named = length | {"upload-metadata": metadata(batch_id=other)}
    problem(lent.client.post("/v1/tus", headers=named), 404, "not-found")
    own = length | {"upload-metadata": metadata(batch_id=lent.batch["id"]), "upload-concat": "partial"}
    assert lent.client.post("/v1/tus", headers=own).status_code in {400, 403}
    assert lent.owner.get(f"/v1/batches/{other}").json()["total_uploads"] == 0


def test_a_token_does_not_seal(lent: Lent) -> None:
    problem(lent.client.post(f"{lent.url}/manifest", json={"entries": [], "seal": True}), 403, "forbidden")
    assert not lent.owner.get(lent.url).json()["sealed"]


def test_a_token_lives_on_without_the_key_that_made_it_and_renews_itself(guarded: Guarded, owner: httpx.Client) -> None:
    row, secret = make_key_row(guarded.url, owner=OWNER)
    batch = owner.post("/v1/batches", json={}).json()["url"]
    with guarded.client(secret) as maker:
        token = lend(maker, batch, expires_in_seconds=600)
    revoke_key(guarded.url, row)
    with guarded.client(token["token"]) as client:
        assert client.get(batch).status_code == 200
        renewed = lend(client, batch, expires_in_seconds=86_400)
    assert renewed["renewable_until"] == token["renewable_until"]
    assert token["expires_at"] < renewed["expires_at"] < renewed["renewable_until"]
    life = datetime.fromisoformat(token["renewable_until"]) - datetime.fromisoformat(token["expires_at"])
    assert 6.9 < life.total_seconds() / 86_400 < 7
    with guarded.client(renewed["token"]) as client:
        assert client.put(f"{batch}/files/x", content=new_bytes()).status_code == 201


def test_a_token_has_no_scope_that_its_maker_lacked(guarded: Guarded, owner: httpx.Client) -> None:
    batch = owner.post("/v1/batches", json={}).json()["url"]
    with closing(guarded.client(make_key(guarded.url, owner=OWNER, scopes=(AccessScope.WRITE,)))) as maker:
        token = lend(maker, batch)
    assert token["scopes"] == ["write"]
    with guarded.client(token["token"]) as client:
        problem(client.get(batch), 403, "forbidden")
        assert client.put(f"{batch}/files/x", content=new_bytes()).status_code == 201
    with closing(guarded.client(make_key(guarded.url, owner=OWNER, scopes=(AccessScope.READ,)))) as reader:
        problem(reader.post(f"{batch}/tokens"), 403, "forbidden")


def test_a_token_is_worth_nothing_once_its_batch_is_deleted(lent: Lent) -> None:
    assert lent.client.get(lent.url).status_code == 200
    assert lent.owner.delete(lent.url).status_code == 204  # its uploads outlive it
    upload = f"/v1/uploads/{lent.upload['id']}"
    assert lent.owner.get(upload).status_code == 200
    for answer in (
        lent.client.get(lent.url),
        lent.client.get(upload),
        lent.client.get(f"{upload}/content"),
        lent.client.put(f"{lent.url}/files/b", content=b"x"),
        lent.client.post(f"{lent.url}/tokens"),
    ):
        problem(answer, 404, "not-found")


def test_a_token_that_was_changed_or_is_old_answers_401(guarded: Guarded, lent: Lent, nobody: httpx.Client) -> None:
    old = lend(lent.owner, lent.url, expires_in_seconds=1)["token"]
    secret: str = lent.token["token"]
    head, claims, signature = secret.split(".")
    for wrong in (
        f"{head}.{claims}.{signature[:-4]}AAAA",
        f"{head}.{claims}.",
        f"{head}.{claims[:-8]}{claims[-4:]}.{signature}",
        secret.removeprefix("blt_"),
        "blt_",
        "blt_x.y.z",
        secret + "x",
    ):
        problem(nobody.get(lent.url, headers=bearer(wrong)), 401, "unauthorized")
    while nobody.get(lent.url, headers=bearer(old)).status_code == 200:
        pass  # a second at the most, or two
    problem(nobody.get(lent.url, headers=bearer(old)), 401, "unauthorized")


@pytest.mark.parametrize(
    ("body", "status"),
    [({"expires_in_seconds": 0}, 422), ({"expires_in_seconds": 86_401}, 422), ({"x": 1}, 422), ({}, 201)],
)
def test_what_a_token_is_made_with(lent: Lent, body: Json, status: int) -> None:
    assert lent.owner.post(f"{lent.url}/tokens", json=body).status_code == status
    problem(lent.owner.post(f"/v1/batches/{uuid4()}/tokens", json={}), 404, "not-found")


def test_events_alone_take_a_token_from_the_url(guarded: Guarded, lent: Lent, nobody: httpx.Client) -> None:
    secret = lent.token["token"]
    for path in (lent.url, f"{lent.url}/uploads", f"/v1/uploads/{lent.upload['id']}/content"):
        problem(nobody.get(path, params={"access_token": secret}), 401, "unauthorized")
    events = f"{lent.url}/events"
    for wrong in (guarded.key, "blt_x", "", secret + "x"):
        problem(nobody.get(events, params={"access_token": wrong}), 401, "unauthorized")
    for query in (
        f"access_token={secret}&access_token={secret}",
        "access_token=%C2%BE",
        "access_token=blt_%FF",
        "x=%FF",
    ):
        problem(nobody.get(f"{events}?{query}"), 401, "unauthorized")
    with nobody.stream("GET", f"{events}?x=%C2%BE%FF&access_token={secret}") as answer:
        assert answer.status_code == 200
    problem(nobody.get(events, params={"access_token": secret}, headers=bearer(secret)), 401, "unauthorized")
    other = lent.owner.post("/v1/batches", json={}).json()["url"]
    problem(nobody.get(f"{other}/events", params={"access_token": secret}), 404, "not-found")


async def test_a_browser_follows_a_batch_with_a_token_and_no_log_shows_it(
    guarded: Guarded, lent: Lent, page: Page
) -> None:
    secret = lent.token["token"]
    await page.goto(f"{guarded.server.url}/docs")
    following_page = asyncio.create_task(
        page.evaluate(
            """url => new Promise((told, failed) => {
                const source = new EventSource(url), seen = [];
                source.addEventListener('batch', event => {
                    const batch = JSON.parse(event.data);
                    seen.push(batch.total_uploads);
                    if (batch.status === 'completed') { source.close(); told(seen); }
                });
                source.onerror = () => failed(new Error('cut off'));
            })""",
            f"{lent.url}/events?access_token={secret}",
        )
    )
    async with following(guarded.server.port, f"{lent.url}/events", Authorization=f"Bearer {secret}") as events:
        assert events.status == 200
    await asyncio.to_thread(by_put, lent)
    await asyncio.to_thread(lent.owner.post, f"{lent.url}/seal")
    seen = await asyncio.wait_for(following_page, 60)
    assert seen[-1] == 2
    assert f"{lent.url}/events" in guarded.server.log
    assert secret.rpartition(".")[2] not in guarded.server.log
