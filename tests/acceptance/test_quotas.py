"""Quotas over real sockets: through every door, a hundred senders at once, and as owners and operators see them."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from tests.support.credentials import bearer, make_key
from tests.support.postgres import Servers
from tests.support.server import Boatload, boatload, serving
from tests.support.tus import BODY, VERSION, metadata
from tests.support.wire import FORM, File, Json, connection, multipart, problem, read_answer, request_head, send

OWNER = "00000000-0000-8000-8000-000000000001"
SIZE = 70_000
ROOM = 40


@pytest.fixture
def limited(postgres_servers: Servers) -> Iterator[Boatload]:
    postgres = postgres_servers.get("18")
    url = postgres.create_migrated()
    with serving(database_url=url, quota_bytes=ROOM * SIZE + SIZE // 2, quota_open_batches=5) as server:
        yield server
    postgres.drop(url)


async def send_by(door: int, api: httpx.AsyncClient, batch: str, number: int) -> httpx.Response:
    data = number.to_bytes(4) * (SIZE // 4)
    if door == 0:
        return await api.put(f"{batch}/files/{number}", content=data)
    if door == 1:
        return await api.post(f"{batch}/uploads", content=multipart(File(str(number), data)), headers=FORM)
    if door == 2:
        name = metadata(batch_id=batch.rpartition("/")[2], filename=str(number))
        headers = VERSION | BODY | {"upload-length": str(SIZE), "upload-metadata": name}
        return await api.post("/v1/tus", content=data, headers=headers)
    entry = {"ref": str(number), "filename": str(number), "size_bytes": SIZE}
    answer = await api.post(f"{batch}/manifest", json={"entries": [entry]})
    if answer.status_code == 200:
        answer = await api.put(answer.json()["entries"][0]["content_url"], content=data)
    return answer


def slug_of(answer: httpx.Response) -> str:
    if answer.is_success:
        return "kept"
    body: Json = answer.json()
    if answer.status_code == 422:
        assert "results" in body, (str(answer.url), body)
        return str(body["results"][0]["problem"]["type"])
    assert answer.status_code == 413
    return str(body["type"])


async def test_a_hundred_senders_through_every_door_store_no_more_than_the_quota(limited: Boatload) -> None:
    async with limited.async_client() as api:
        batches = [(await api.post("/v1/batches")).json()["url"] for _ in range(4)]
        sending = (send_by(number % 4, api, batches[number % 4 - 1], number) for number in range(100))
        answers = await asyncio.gather(*sending)
        verdicts = Counter(map(slug_of, answers))
        assert verdicts == {"kept": ROOM, "/problems/quota-exceeded": 100 - ROOM}
        quota = (await api.get("/v1/quota")).json()
        assert quota == {
            "bytes": {"limit": ROOM * SIZE + SIZE // 2, "used": ROOM * SIZE},
            "files": {"limit": None, "used": ROOM},
            "open_batches": {"limit": 5, "used": 4},
            "open_uploads": {"limit": None, "used": 0},
        }
        accounts = [(await api.get(batch)).json() for batch in batches]
        assert sum(account["received_bytes"] for account in accounts) == ROOM * SIZE
        await asyncio.gather(*(api.delete(batch, params={"uploads": "delete"}) for batch in batches))
        after = (await api.get("/v1/quota")).json()
        assert {name: share["used"] for name, share in after.items()} == dict.fromkeys(quota, 0)


@pytest.mark.parametrize("door", ["multipart", "whole job", "put", "tus"])
async def test_a_body_that_is_over_by_its_length_is_refused_unread_and_its_connection_closed(
    limited: Boatload, door: str
) -> None:
    with limited.client() as client:
        batch = client.post("/v1/batches").json()["url"]
    length = 1 << 30
    head = {
        "multipart": request_head("POST", f"{batch}/uploads", Content_Type=FORM["content-type"], Content_Length=length),
        "whole job": request_head("POST", "/v1/uploads", Content_Type=FORM["content-type"], Content_Length=length),
        "put": request_head("PUT", f"{batch}/files/a", Content_Length=length),
        "tus": request_head(
            "POST",
            "/v1/tus",
            Tus_Resumable="1.0.0",
            Upload_Length=length,
            Content_Type=BODY["content-type"],
            Content_Length=length,
        ),
    }[door]
    async with connection(limited.port) as (reader, writer):
        writer.write(head)
        body = problem(await read_answer(reader), 413, "quota-exceeded")
        assert (body["quota"], body["used"]) == ("bytes", 0)
        assert await reader.read() == b""
    with limited.client() as client:
        assert client.get("/v1/quota").json()["bytes"]["used"] == 0


def test_an_operator_gives_an_owner_other_limits_and_sees_what_is_used(limited: Boatload) -> None:
    database = {"database_url": limited.settings["database_url"]}
    with limited.client() as client:
        assert send(client, "/v1/uploads", File("a", b"12345"), File("b", b"67")).status_code == 201
        done = boatload("quotas", "set", OWNER, "--bytes", "8", "--open-batches", "unlimited", **database)
        assert (done.returncode, done.stderr) == (0, "")
        assert client.get("/v1/quota").json()["bytes"] == {"limit": 8, "used": 7}
        some = send(client, "/v1/uploads", File("c", b"89"), File("d", b"8"))
        assert some.status_code == 207
        refused, kept = some.json()["results"]
        assert (refused["status"], refused["problem"]["type"]) == ("rejected", "/problems/quota-exceeded")
        assert "8 bytes" in refused["problem"]["detail"]
        assert kept["status"] == "stored"
        problem(send(client, "/v1/uploads", File("e", b"e")), 413, "quota-exceeded")
        assert boatload("quotas", "set", OWNER, "--bytes", "default", **database).returncode == 0
        assert send(client, "/v1/uploads", File("e", b"e")).status_code == 201
    listed = boatload("quotas", "list", **database).stdout
    assert f"everybody  bytes {ROOM * SIZE + SIZE // 2}  files default  open_batches 5" in listed
    assert f"{OWNER}  bytes default (9 used)  files default (4 used)  open_batches unlimited (" in listed
    assert boatload("quotas", "recount", **database).returncode == 0
    assert "bytes default (9 used)" in boatload("quotas", "list", **database).stdout


def test_each_owner_has_a_quota_of_its_own_whatever_key_it_comes_with(limited: Boatload) -> None:
    url = str(limited.settings["database_url"])
    full, other = uuid4(), uuid4()
    with limited.client() as client:
        data = bytes(ROOM * SIZE)
        assert send(client, "/v1/uploads", File("a", data), **bearer(make_key(url, owner=full))).status_code == 201
        second = bearer(make_key(url, owner=full))
        problem(send(client, "/v1/uploads", File("b", data), **second), 422, "no-file-taken")
        assert client.get("/v1/quota", headers=second).json()["bytes"]["used"] == ROOM * SIZE
        key = bearer(make_key(url, owner=other))
        assert client.get("/v1/quota", headers=key).json()["bytes"]["used"] == 0
        assert send(client, "/v1/uploads", File("a", data), **key).status_code == 201
        assert client.get("/v1/quota", headers=key).json()["files"] == {"limit": None, "used": 1}


@pytest.mark.parametrize("wrong", [(), ("--bytes", "-1"), ("--files", "many"), ("--bytes", str(2**63))])
def test_a_limit_that_is_none_is_refused_with_a_sentence(wrong: tuple[str, ...]) -> None:
    refused = boatload("quotas", "set", OWNER, *wrong)
    assert refused.returncode == 1
    assert "limit" in refused.stderr
