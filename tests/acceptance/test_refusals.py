"""What is refused, and how: every error a problem with its status, and nothing stored by it."""

import asyncio
import json
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from tests.support.server import Boatload
from tests.support.wire import (
    CONTENT_TYPE,
    FORM,
    File,
    Text,
    connection,
    multipart,
    problem,
    read_answer,
    request_head,
    send,
)

JSON = {"content-type": "application/json"}
ONE = multipart(File("a", b"x"))
ROUTES = [
    ("GET", "/v1/batches/{}"),
    ("GET", "/v1/batches/{}/uploads"),
    ("POST", "/v1/batches/{}/uploads"),
    ("POST", "/v1/batches/{}/seal"),
    ("POST", "/v1/batches/{}/cancel"),
    ("DELETE", "/v1/batches/{}"),
    ("DELETE", "/v1/batches/{}?uploads=delete"),
    ("GET", "/v1/uploads/{}"),
    ("GET", "/v1/uploads/{}/content"),
    ("DELETE", "/v1/uploads/{}"),
]
NO_ID = ["x", "0", "null", "01a20752-78bf", "%00", "%F0%9F%92%A3", "'--", "a" * 500]


@pytest.fixture
def unchanged(client: httpx.Client) -> Iterator[None]:
    """No batch comes of what the test does."""
    before = client.get("/v1/batches?limit=1").json()["items"]
    yield
    assert client.get("/v1/batches?limit=1").json()["items"] == before


@pytest.mark.parametrize(("method", "route"), ROUTES)
def test_what_is_unknown_and_what_is_no_id_answer_the_same_404(client: httpx.Client, method: str, route: str) -> None:
    bodies = set()
    for identity in (str(uuid4()), str(uuid4()).upper(), *NO_ID):
        content = ONE if method == "POST" else None
        answer = client.request(method, route.format(identity), content=content, headers=FORM if content else {})
        problem(answer, 404, "not-found")
        bodies.add(answer.content)
    assert len(bodies) == 1


@pytest.mark.parametrize("zero", ["%0B", "%0A", "%20", "_", "%EF%BC%90", "%7B0"])
def test_an_id_in_another_form_than_its_own_is_no_id(client: httpx.Client, zero: str) -> None:
    batch = client.post("/v1/batches", json={}).json()
    for name in "ab":
        assert client.put(f"{batch['url']}/files/{name}", content=name).status_code == 201
    assert batch["id"].startswith("0"), "for some ways to read it, the other forms are the same number"
    for route in ("/v1/batches/{}", "/v1/batches/{}/uploads?limit=1"):
        problem(client.get(route.format(zero + batch["id"][1:])), 404, "not-found")


def test_a_batch_field_that_names_nothing_answers_the_same_404(client: httpx.Client, unchanged: None) -> None:
    known = client.get(f"/v1/batches/{uuid4()}").content
    for identity in (str(uuid4()), "x", "\N{SPARKLES}"):
        answer = send(client, "/v1/uploads", Text("batch_id", identity), File("a", b"x"))
        problem(answer, 404, "not-found")
        assert answer.content == known


@pytest.mark.parametrize("path", ["/nope", "/v1", "/v1/", "/v1/batches/", "/v2/batches", "/docs/assets/nope.js", "//"])
def test_an_unknown_route_answers_404(client: httpx.Client, path: str) -> None:
    problem(client.get(httpx.URL(str(client.base_url).rstrip("/") + path)), 404, "not-found")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/batches", {"GET", "POST"}),
        ("/v1/batches/{}", {"GET", "DELETE"}),
        ("/v1/batches/{}/uploads", {"GET", "POST"}),
        ("/v1/batches/{}/seal", {"POST"}),
        ("/v1/batches/{}/cancel", {"POST"}),
        ("/v1/uploads", {"POST"}),
        ("/v1/uploads/{}", {"GET", "DELETE"}),
        ("/v1/uploads/{}/content", {"GET", "HEAD", "PUT"}),
        ("/v1/batches/{}/manifest", {"POST"}),
        ("/v1/batches/{}/files/a/b", {"PUT"}),
        ("/healthz", {"GET"}),
    ],
)
def test_a_wrong_method_answers_405_and_says_all_that_are_right(
    client: httpx.Client, path: str, allowed: set[str]
) -> None:
    for method in sorted({"PATCH", "PUT"} - allowed):
        answer = client.request(method, path.format(uuid4()))
        problem(answer, 405, "method-not-allowed")
        assert {name.strip() for name in answer.headers["allow"].split(",")} == allowed


def nested(depth: int) -> str:
    return '{"metadata": {"a": ' + "[" * depth + "]" * depth + "}}"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        '{"label": null, "expected_uploads": null, "metadata": {}, "expires_in_seconds": null}',
        nested(100),
        json.dumps({"label": "x" * 200}),
        json.dumps({"label": "\N{SPARKLES}" * 200}),
        json.dumps({"metadata": {"a": "\\u0000 as text"}}),
        json.dumps({"metadata": {"big": 10**300, "small": 1e-300}}),
    ],
)
def test_a_right_json_body_opens_a_batch(client: httpx.Client, body: str) -> None:
    answer = client.post("/v1/batches", content=body, headers=JSON)
    assert answer.status_code == 201, answer.text
    if body:
        metadata = json.loads(body).get("metadata", {})
        assert client.get(answer.headers["location"]).json()["metadata"] == metadata


@pytest.mark.parametrize(
    "body",
    [
        "x",
        "[]",
        "null",
        "1",
        '"x"',
        "{",
        "{}{}",
        "\ufeff{}x",
        '{"no_such_field": 1}',
        '{"label": 5}',
        '{"label": ["x"]}',
        '{"label": "\\u0000"}',
        '{"label": "a\\nb"}',
        '{"label": "\\ud800"}',
        json.dumps({"label": "x" * 201}),
        '{"expected_uploads": 0}',
        '{"expected_uploads": -1}',
        '{"expected_uploads": 2147483648}',
        '{"expected_uploads": 1e400}',
        '{"expected_uploads": 1.5}',
        '{"expected_uploads": NaN}',
        '{"expires_in_seconds": 0}',
        '{"expires_in_seconds": 1e30}',
        '{"metadata": []}',
        '{"metadata": "x"}',
        '{"metadata": null}',
        '{"metadata": {"a": NaN}}',
        '{"metadata": {"a": Infinity}}',
        '{"metadata": {"a": 1e400}}',
        '{"metadata": {"a": "\\u0000"}}',
        '{"metadata": {"\\u0000": 1}}',
        '{"metadata": {"a": "\\udfff"}}',
        '{"metadata": {"\\ud800": 1}}',
        '{"metadata": {"a": ' + "9" * 5000 + "}}",
        json.dumps({"metadata": {"a": "x" * 17_000}}),
        nested(10_000),
        '{"a":' * 10_000,
        "[" * 10_000,
    ],
)
def test_a_wrong_json_body_answers_422(client: httpx.Client, unchanged: None, body: str) -> None:
    answer = client.post("/v1/batches", content=body.encode("utf-8", "surrogatepass"), headers=JSON)
    assert len(answer.content) < 20_000
    faults = problem(answer, 422, "invalid-request")["errors"]
    assert faults
    assert all(fault.keys() == {"where", "message"} for fault in faults)


@pytest.mark.parametrize("body", [b'{"label": "\xff"}', b'{"label": "\xed\xa0\x80"}', "{}".encode("utf-16")])
def test_json_that_is_not_utf_8_answers_422(client: httpx.Client, unchanged: None, body: bytes) -> None:
    problem(client.post("/v1/batches", content=body, headers=JSON), 422, "invalid-request")


@pytest.mark.parametrize("size", [65_537, 10 * 1024 * 1024])
def test_a_json_body_that_is_too_large_answers_413(client: httpx.Client, unchanged: None, size: int) -> None:
    body = b'{"label": "' + b"x" * size
    problem(client.post("/v1/batches", content=body, headers=JSON), 413, "request-too-large")
    problem(client.post("/v1/batches", content=iter([body]), headers=JSON), 413, "request-too-large")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", "", "x"])
def test_a_body_that_is_not_called_json_answers_415(client: httpx.Client, unchanged: None, media_type: str) -> None:
    answer = client.post("/v1/batches", content=b"{}", headers={"content-type": media_type})
    problem(answer, 415, "unsupported-media-type")


def test_an_answer_carries_the_request_id_that_was_sent_or_one_of_its_own(client: httpx.Client) -> None:
    assert client.get("/v1/nope", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    for unfit in ("x" * 65, "a b", "<script>"):
        own = client.get("/v1/nope", headers={"x-request-id": unfit}).headers["x-request-id"]
        assert own != unfit
        assert own.isalnum()


@pytest.mark.parametrize(
    ("path", "content_type", "status"),
    [
        ("/v1/batches/{}/uploads", CONTENT_TYPE, 404),
        ("/v1/uploads", "application/json", 415),
        ("/v1/uploads", "multipart/form-data", 400),
        ("/v1/nope", CONTENT_TYPE, 404),
    ],
)
async def test_a_body_refused_early_is_answered_before_it_is_sent(
    server: Boatload, path: str, content_type: str, status: int
) -> None:
    async with connection(server.port) as (reader, writer):
        path = path.format(uuid4())
        writer.write(request_head("POST", path, Content_Type=content_type, Content_Length=10**9) + b"x" * 1000)
        answer = await asyncio.wait_for(read_answer(reader), 10)
        assert answer.status_code == status
