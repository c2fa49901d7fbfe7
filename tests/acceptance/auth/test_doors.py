"""Every door of the service: shut to whoever has no credential, or one that is not good for it."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.domain.access import AccessScope
from tests.acceptance.auth.conftest import OWNER, Guarded
from tests.support.credentials import make_key, make_key_row, revoke_key
from tests.support.server import ROOT
from tests.support.values import UNKNOWN
from tests.support.wire import FORM, PROBLEM, File, connection, multipart, problem, read_answer, request_head, send

OPENAPI: dict[str, Any] = json.loads((ROOT / "openapi.json").read_text())
OPERATIONS = [
    (method.upper(), re.sub(r"\{\w+\}", UNKNOWN, path), operation["security"])
    for path, operations in OPENAPI["paths"].items()
    for method, operation in operations.items()
]
SHUT = [(method, path) for method, path, security in OPERATIONS if security]
WRONG = [
    *("unknown", "revoked", "expired", "cut short", "other letters", "no prefix", "two in one", "not ascii", "quoted"),
    *("empty", "nothing", "long", "sql", "basic", "bare", "another scheme"),
]
OPEN = [(method, path) for method, path, security in OPERATIONS if not security]


def refused(answer: httpx.Response, challenge: str) -> None:
    """A 401 as RFC 6750 §3 has it; HEAD has no body to say more."""
    assert answer.headers["www-authenticate"] == challenge
    assert answer.headers["content-type"] == PROBLEM
    assert answer.status_code == 401
    if answer.request.method != "HEAD":
        problem(answer, 401, "unauthorized")


@pytest.mark.parametrize(("method", "path"), SHUT)
def test_an_operation_without_a_credential_answers_401(nobody: httpx.Client, method: str, path: str) -> None:
    refused(nobody.request(method, path), "Bearer")


@pytest.mark.parametrize("path", ["/", "/nope", "/v1/batches/", "/V1/batches", "//v1/batches", "/docs/../v1/batches"])
def test_a_path_that_is_none_tells_nobody_anything(nobody: httpx.Client, path: str) -> None:
    refused(nobody.get(path), "Bearer")


@pytest.mark.parametrize(
    ("method", "path"), [*OPEN, ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/docs/assets/swagger-ui.css")]
)
def test_what_is_for_everybody_needs_none(nobody: httpx.Client, method: str, path: str) -> None:
    assert nobody.request(method, path).status_code in {200, 204}
    assert len(OPEN) == 3


@pytest.fixture(scope="module")
def worthless(guarded: Guarded) -> dict[str, str]:
    """Credentials that do not hold, or are none, by what is wrong with them."""
    revoked, secret = make_key_row(guarded.url, owner=OWNER)
    revoke_key(guarded.url, revoked)
    worthless = {
        "unknown": "Bearer blk_" + "x" * 43,
        "revoked": f"Bearer {secret}",
        "expired": f"Bearer {make_key(guarded.url, owner=OWNER, days=-1)}",
        "cut short": f"Bearer {guarded.key[:-1]}",
        "other letters": f"Bearer {guarded.key.swapcase()}",
        "no prefix": f"Bearer {guarded.key.removeprefix('blk_')}",
        "two in one": f"Bearer {guarded.key} {guarded.key}",
        "not ascii": "Bearer blk_\xff\xfe",
        "quoted": f'Bearer "{guarded.key}"',
        "empty": "Bearer",
        "nothing": "",
        "long": "Bearer blk_" + "x" * 20_000,
        "sql": "Bearer blk_' OR TRUE --",
        "basic": "Basic " + "eDp5",
        "bare": guarded.key,
        "another scheme": f"Token {guarded.key}",
    }
    assert [*worthless] == WRONG
    return worthless


@pytest.mark.parametrize("wrong", WRONG)
def test_no_unknown_revoked_or_expired_credential_answers_401(
    nobody: httpx.Client, worthless: dict[str, str], wrong: str
) -> None:
    headers = [(b"authorization", worthless[wrong].encode("latin-1"))]
    for answer in (
        nobody.get("/v1/batches", headers=headers),
        nobody.get(f"/v1/batches/{uuid4()}", headers=headers),
        nobody.put(f"/v1/batches/{uuid4()}/files/a", headers=headers, content=b"x"),
    ):
        refused(answer, 'Bearer error="invalid_token"')


def test_two_credentials_are_none(guarded: Guarded, nobody: httpx.Client) -> None:
    field = (b"authorization", f"Bearer {guarded.key}".encode())
    assert nobody.get("/v1/batches", headers=[field]).status_code == 200
    refused(nobody.get("/v1/batches", headers=[field, field]), 'Bearer error="invalid_token"')


def test_the_scheme_is_read_in_any_case(guarded: Guarded, nobody: httpx.Client) -> None:
    for scheme in ("bearer", "BEARER"):
        assert nobody.get("/v1/batches", headers={"authorization": f"{scheme} {guarded.key}"}).status_code == 200


@pytest.fixture(scope="module")
def lesser(guarded: Guarded) -> Iterator[dict[AccessScope, httpx.Client]]:
    """For each scope, a client that has all the others."""
    clients = {
        lacking: guarded.client(
            make_key(guarded.url, owner=OWNER, scopes=tuple(scope for scope in AccessScope if scope is not lacking))
        )
        for lacking in AccessScope
    }
    yield clients
    for client in clients.values():
        client.close()


@pytest.mark.parametrize(("method", "path"), SHUT)
def test_a_wrong_scope_answers_403(lesser: dict[AccessScope, httpx.Client], method: str, path: str) -> None:
    reading = AccessScope.READ if method in {"GET", "HEAD"} else AccessScope.WRITE
    needed = AccessScope.ADMIN if "webhooks" in path else reading
    answer = lesser[needed].request(method, path)
    assert answer.status_code == 403
    assert answer.headers["www-authenticate"] == f'Bearer error="insufficient_scope", scope="{needed}"'
    if method != "HEAD":
        assert problem(answer, 403, "forbidden")["scope"] == needed
    for lacking, client in lesser.items():
        if lacking is not needed:
            assert client.request(method, path).status_code not in {401, 403}


@pytest.mark.parametrize("ending", ["%0A", "%0D", "%00", "%20", "%2F", "//"])
@pytest.mark.parametrize("path", ["/v1/webhooks", "/v1/batches", "/v1/uploads", "/v1/quota", "/healthz", "/docs"])
def test_there_is_no_other_way_to_write_a_path(
    owner: httpx.Client, nobody: httpx.Client, path: str, ending: str
) -> None:
    """A line break above all: the patterns of the framework take one at the end for nothing."""
    for method in ("GET", "POST"):
        refused(nobody.request(method, path + ending), "Bearer")
        problem(owner.request(method, path + ending, json={"url": "https://a.example/"}), 404, "not-found")


def test_another_owners_key_finds_nothing(owner: httpx.Client, stranger: httpx.Client) -> None:
    """Through the framework and through the lanes before it."""
    sent = send(owner, "/v1/uploads", File("a", b"mine")).json()
    batch, upload = sent["url"], sent["results"][0]["upload"]
    assert owner.get(batch).status_code == 200
    unknown = stranger.get(f"/v1/batches/{uuid4()}")
    for method, path in (
        ("GET", batch),
        ("GET", f"{batch}/uploads"),
        ("GET", f"{batch}/events"),
        ("PUT", f"{batch}/files/a"),
        ("POST", f"{batch}/seal"),
        ("DELETE", batch),
        ("GET", f"/v1/uploads/{upload['id']}"),
        ("GET", upload["content_url"]),
        ("PUT", upload["content_url"]),
        ("DELETE", f"/v1/uploads/{upload['id']}"),
    ):
        answer = stranger.request(method, path)
        problem(answer, 404, "not-found")
        assert answer.content == unknown.content
    assert sent["batch"]["id"] not in stranger.get("/v1/batches").text
    assert owner.get(upload["content_url"]).content == b"mine"
    assert owner.get(batch).json()["user_id"] == str(OWNER)


async def test_a_refused_body_is_not_read_and_its_connection_ends(guarded: Guarded) -> None:
    """Neither is the client told to go on (RFC 9110 §10.1.1)."""
    routes = ["POST /v1/uploads", f"PUT /v1/batches/{uuid4()}/files/a", "POST /v1/batches", "POST /v1/tus"]
    for route in routes:
        for fields in ({"Content_Length": 1 << 30, "Expect": "100-continue"}, {"Transfer_Encoding": "chunked"}):
            async with connection(guarded.server.port) as (reader, writer):
                writer.write(request_head(*route.split(), Authorization="Bearer blk_no", **fields))
                answer = await asyncio.wait_for(read_answer(reader), 10)
                problem(answer, 401, "unauthorized")
                assert answer.headers["connection"] == "close"
                assert await asyncio.wait_for(reader.read(), 10) == b""


def test_a_refusal_without_a_body_keeps_the_connection(guarded: Guarded) -> None:
    with guarded.client() as client:
        answers = [client.get("/v1/batches") for _ in range(2)]
        assert len({answer.extensions["network_stream"].get_extra_info("client_addr") for answer in answers}) == 1


def test_nothing_is_stored_of_what_is_refused(guarded: Guarded, owner: httpx.Client, nobody: httpx.Client) -> None:
    batch = owner.post("/v1/batches", json={}).json()["url"]
    before = owner.get("/v1/batches?limit=1").content
    with closing(guarded.client(make_key(guarded.url, owner=OWNER, scopes=(AccessScope.READ,)))) as reader:
        for client in (nobody, reader):
            for answer in (
                client.post("/v1/uploads", content=multipart(File("a", b"x")), headers=FORM),
                client.post(f"{batch}/uploads", content=multipart(File("a", b"x")), headers=FORM),
                client.put(f"{batch}/files/a", content=b"x"),
                client.post("/v1/batches", json={}),
                client.delete(batch),
            ):
                assert answer.status_code in {401, 403}
    assert owner.get("/v1/batches?limit=1").content == before


def test_no_log_shows_a_credential(guarded: Guarded, owner: httpx.Client, worthless: dict[str, str]) -> None:
    assert owner.get("/v1/batches").status_code == 200
    shown = guarded.server.log
    assert '"path":"/v1/batches"' in shown
    for secret in (guarded.key, guarded.strangers, *(value.partition(" ")[2] for value in worthless.values())):
        assert len(secret) < 8 or secret.removeprefix("blk_")[:40] not in shown
