"""JSON bodies that are none, or not those that a route takes."""

import gzip
import json

import httpx
import pytest

from tests.support.bad_inputs import opened
from tests.support.census import unchanged
from tests.support.server import Boatload
from tests.support.wire import problem

JSON = {"content-type": "application/json"}
ROUTES = ["/v1/batches", "/v1/webhooks", "{}/manifest", "{}/retry"]
LARGE = b'{"label": "' + b"x" * (10 << 20) + b'"}'


def nested(depth: int) -> str:
    return '{"metadata": {"a": ' + "[" * depth + "]" * depth + "}}"


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "body",
    ['{"no_such_field": 1}', "[]", "5", '"x"', "null", "NaN", '{"a": NaN}', "{", "{}{}", "[" * 10_000, nested(10_000)],
    ids=lambda body: body[:20],
)
def test_json_with_unknown_field_wrong_type_nan_or_nesting_10_000_deep(
    server: Boatload, client: httpx.Client, route: str, body: str
) -> None:
    url = route.format(opened(client))
    with unchanged(server):
        answer = client.post(url, content=body, headers=JSON)
        assert len(answer.content) < 20_000
        faults = problem(answer, 422, "invalid-request")["errors"]
        assert faults
        assert all(fault.keys() == {"where", "message"} for fault in faults)


@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
@pytest.mark.parametrize("route", ROUTES)
def test_json_of_10_mb(server: Boatload, client: httpx.Client, route: str, *, chunked: bool) -> None:
    url = route.format(opened(client))
    with unchanged(server):
        problem(client.post(url, content=iter([LARGE]) if chunked else LARGE, headers=JSON), 413, "request-too-large")


@pytest.mark.parametrize(
    "body",
    [
        "x",
        "\ufeff{}x",
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
        '{"expected_uploads": "5"}',
        '{"expected_uploads": true}',
        '{"expires_in_seconds": 0}',
        '{"expires_in_seconds": 1e30}',
        '{"expires_in_seconds": "60"}',
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
        '{"a":' * 10_000,
    ],
    ids=lambda body: body[:40],
)
def test_a_batch_with_a_wrong_value(server: Boatload, client: httpx.Client, body: str) -> None:
    with unchanged(server):
        answer = client.post("/v1/batches", content=body.encode("utf-8", "surrogatepass"), headers=JSON)
        assert len(answer.content) < 20_000
        assert problem(answer, 422, "invalid-request")["errors"]


@pytest.mark.parametrize("body", [b'{"label": "\xff"}', b'{"label": "\xed\xa0\x80"}', "{}".encode("utf-16")])
def test_json_that_is_not_utf_8(server: Boatload, client: httpx.Client, body: bytes) -> None:
    with unchanged(server):
        problem(client.post("/v1/batches", content=body, headers=JSON), 422, "invalid-request")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", "", "x"])
def test_a_body_that_is_not_called_json(server: Boatload, client: httpx.Client, media_type: str) -> None:
    with unchanged(server):
        answer = client.post("/v1/batches", content=b"{}", headers={"content-type": media_type})
        problem(answer, 415, "unsupported-media-type")


def test_json_with_content_encoding(server: Boatload, client: httpx.Client) -> None:
    with unchanged(server):
        answer = client.post("/v1/batches", content=gzip.compress(b"{}"), headers=JSON | {"content-encoding": "gzip"})
        problem(answer, 415, "unsupported-media-type")
