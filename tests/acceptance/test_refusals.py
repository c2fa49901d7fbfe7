"""What is refused, and how: every error a problem with its status, and nothing stored by it."""

import asyncio
import json
from urllib.parse import unquote
from uuid import uuid4

import httpx
import pytest

from tests.support.server import Boatload
from tests.support.tus import VERSION, metadata
from tests.support.wire import CONTENT_TYPE, File, Text, connection, problem, read_answer, request_head, send

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("zero", ["%0B", "%0A", "%20", "_", "%EF%BC%90", "%7B0"])
def test_an_id_in_another_form_than_its_own_is_no_id(client: httpx.Client, zero: str) -> None:
    batch = client.post("/v1/batches", json={}).json()
    for name in "ab":
        assert client.put(f"{batch['url']}/files/{name}", content=name).status_code == 201
    assert batch["id"].startswith("0"), "for some ways to read it, the other forms are the same number"
    for route in ("/v1/batches/{}", "/v1/batches/{}/uploads?limit=1"):
        problem(client.get(route.format(zero + batch["id"][1:])), 404, "not-found")
    other = unquote(zero) + batch["id"][1:]
    problem(send(client, "/v1/uploads", Text("batch_id", other), File("c", b"c")), 404, "not-found")
    if "\n" not in other:
        tus = VERSION | {"upload-length": "1", "upload-metadata": metadata(batch_id=other)}
        problem(client.post("/v1/tus", headers=tus), 404, "not-found")
    assert client.get(batch["url"]).json()["total_uploads"] == 2


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
        ("/docs", {"GET"}),
        ("/docs/assets/swagger-ui.css", {"GET", "HEAD"}),
        ("/openapi.json", {"GET", "HEAD"}),
        ("/v1/webhooks/deliveries", {"GET"}),
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
