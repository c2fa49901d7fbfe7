"""Rates over real sockets: refused in time and by name, each caller for itself, in front of every lane."""

import asyncio
import json
import re
from collections.abc import Iterator
from uuid import UUID, uuid4

import httpx
import pytest

from tests.support.credentials import bearer, make_key
from tests.support.postgres import Servers
from tests.support.server import Boatload, serving
from tests.support.tus import VERSION
from tests.support.wire import FORM, File, connection, multipart, problem, read_answer, request_head

REQUESTS, WRITES, BODIES = 12, 5, 2
ADDRESSES = ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "[2001:db8::3]:9")
LEFT = re.compile(r'"requests";r=(\d+);t=(\d+)(?:, "writes";r=(\d+);t=(\d+))?')


@pytest.fixture(scope="module")
def limited(postgres_servers: Servers) -> Iterator[Boatload]:
    url = postgres_servers.get("18").create_migrated()
    with serving(database_url=url, rate_requests=REQUESTS, rate_writes=WRITES) as server:
        yield server


@pytest.fixture
def client(limited: Boatload) -> Iterator[httpx.Client]:
    """Somebody who has not asked for anything yet."""
    with limited.client() as opened:
        opened.headers.update(bearer(key_of(limited, uuid4())))
        yield opened


def key_of(server: Boatload, owner: UUID) -> str:
    return make_key(str(server.settings["database_url"]), owner=owner)


def left(answer: httpx.Response) -> tuple[int, int | None]:
    """What an answer says is left of requests, and of writes; checked to be well-formed."""
    found = LEFT.fullmatch(answer.headers["ratelimit"])
    assert found, answer.headers["ratelimit"]
    assert all(1 <= int(seconds) <= 60 for seconds in (found[2], found[4]) if seconds)
    return int(found[1]), int(found[3]) if found[3] else None


def refused(answer: httpx.Response, policy: str) -> None:
    assert problem(answer, 429, "too-many-requests")["policy"] == policy
    assert 1 <= int(answer.headers["retry-after"]) <= 60


def test_requests_over_the_rate_are_refused_and_others_are_not(limited: Boatload, client: httpx.Client) -> None:
    answers = [client.get("/v1/batches") for _ in range(REQUESTS + 3)]
    assert [answer.status_code for answer in answers] == [200] * REQUESTS + [429] * 3
    assert [left(answer)[0] for answer in answers] == [*range(REQUESTS - 1, -1, -1), 0, 0, 0]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {f'"requests";q={REQUESTS};w=60'}
    for answer in answers[REQUESTS:]:
        refused(answer, "requests")
    refused(client.get(f"/v1/batches/{uuid4()}"), "requests")
    for path in ("/healthz", "/readyz", "/openapi.json"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "ratelimit" not in answer.headers
    assert httpx.options(f"{limited.url}/v1/tus", trust_env=False).status_code == 204
    other = httpx.get(f"{limited.url}/v1/batches", headers=bearer(key_of(limited, uuid4())), trust_env=False)
    assert left(other) == (REQUESTS - 1, None)


def test_two_keys_of_an_owner_are_one_caller(limited: Boatload) -> None:
    owner = uuid4()
    with limited.client() as client:
        for number in range(REQUESTS):
            answer = client.get("/v1/quota", headers=bearer(key_of(limited, owner)))
            assert left(answer) == (REQUESTS - 1 - number, None)
        refused(client.get("/v1/quota", headers=bearer(key_of(limited, owner))), "requests")


def test_writes_over_their_rate_are_refused_through_every_door_and_reading_goes_on(client: httpx.Client) -> None:
    first = client.post("/v1/batches")
    batch = first.headers["location"]
    assert left(first) == (REQUESTS - 1, WRITES - 1)
    assert first.headers["ratelimit-policy"] == f'"requests";q={REQUESTS};w=60, "writes";q={WRITES};w=60'
    for number in range(WRITES - 1):
        assert client.put(f"{batch}/files/{number}", content=b"x").status_code == 201
    before = client.get(batch)
    refused(client.put(f"{batch}/files/more", content=b"y"), "writes")
    refused(client.post(f"{batch}/uploads", content=multipart(File("more", b"y")), headers=FORM), "writes")
    refused(client.post("/v1/tus", headers=VERSION | {"upload-length": "1"}), "writes")
    refused(client.delete(batch), "writes")
    after = client.get(batch)
    assert after.status_code == 200
    assert after.json()["total_uploads"] == before.json()["total_uploads"] == WRITES - 1


def test_a_change_that_is_over_the_rate_is_in_the_audit_log(limited: Boatload, client: httpx.Client) -> None:
    for _ in range(WRITES):
        assert client.post("/v1/batches").status_code == 201
    refused(client.put(f"/v1/batches/{uuid4()}/files/a", content=b"x", headers={"x-request-id": "over"}), "writes")
    lines = [json.loads(line) for line in limited.log.splitlines() if '"over"' in line]
    [line] = [line for line in lines if line["logger"] == "boatload.audit"]
    assert (line["event"], line["status"], line["by"]) == ("put_file", 429, "key")


async def test_a_body_over_the_rate_is_left_unread_and_its_connection_is_closed(limited: Boatload) -> None:
    key = bearer(key_of(limited, uuid4()))
    async with limited.async_client() as api:
        for _ in range(REQUESTS):
            await api.get("/v1/quota", headers=key)
    async with connection(limited.port) as (reader, writer):
        writer.write(
            request_head(
                "POST",
                "/v1/uploads",
                Content_Type=FORM["content-type"],
                Content_Length=1 << 30,
                Authorization=key["authorization"],
            )
        )
        answer = await read_answer(reader)
        problem(answer, 429, "too-many-requests")
        assert answer.headers["connection"] == "close"
        assert await reader.read() == b""


async def test_more_bodies_at_once_than_allowed_are_refused_until_one_has_ended(postgres_servers: Servers) -> None:
    url = postgres_servers.get("18").create_migrated()
    with serving(database_url=url, rate_bodies=BODIES) as server:
        async with (
            server.async_client() as api,
            connection(server.port) as (reader, writer),
            connection(server.port) as (_, other),
        ):
            batch = (await api.post("/v1/batches")).headers["location"]
            writer.write(request_head("PUT", f"{batch}/files/a", Content_Length=100_000) + bytes(50_000))
            other.write(request_head("PUT", f"{batch}/files/b", Content_Length=100_000) + bytes(50_000))
            async with asyncio.timeout(20):
                while (answer := await api.put(f"{batch}/files/c", content=b"c")).is_success:
                    await asyncio.sleep(0.05)
            refused(answer, "bodies")
            assert answer.headers["retry-after"] == "1"
            assert "ratelimit" not in answer.headers
            assert (await api.get(batch)).status_code == 200
            stranger = bearer(key_of(server, uuid4()))
            assert (await api.post("/v1/batches", json={}, headers=stranger)).status_code == 201
            writer.write(bytes(50_000))
            assert (await read_answer(reader)).status_code == 201
            mine = bearer(key_of(server, uuid4()))
            assert (await api.post("/v1/batches", json={}, headers=mine)).status_code == 201


@pytest.mark.parametrize("trust", [True, False])
def test_without_a_credential_a_caller_is_the_address_that_it_comes_from(
    postgres_servers: Servers, *, trust: bool
) -> None:
    url = postgres_servers.get("18").create_migrated()
    with serving(database_url=url, rate_requests=2, trust_proxy=trust) as server, server.client() as client:
        statuses = [
            client.get("/v1/batches", headers={"x-forwarded-for": address}).status_code for address in ADDRESSES
        ]
        assert statuses == ([200, 200, 429, 200, 200, 200, 429] if trust else [200, 200] + [429] * 5)


def test_nothing_is_limited_or_said_of_limits_unless_it_is_configured(postgres_servers: Servers) -> None:
    with serving(database_url=postgres_servers.get("18").create_migrated()) as server, server.client() as client:
        assert not {"ratelimit", "ratelimit-policy"} & client.get("/v1/batches").headers.keys()
