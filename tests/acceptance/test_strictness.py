"""Small promises of HTTP: what is asked for in a form that is not taken is refused, or passed over, as its RFC says."""

import gzip

import httpx
import pytest

from tests.support.wire import File, Json, finished, problem, send

JSON = {"content-type": "application/json"}
A = b"0123456789" * 10_000


@pytest.fixture
def stored(client: httpx.Client) -> Json:
    answer = send(client, "/v1/uploads", File("a", A))
    finished(client, answer.json()["url"])
    upload: Json = client.get(f"/v1/uploads/{answer.json()['results'][0]['upload']['id']}").json()
    return upload


def test_head_takes_no_range(client: httpx.Client, stored: Json) -> None:
    answer = client.head(stored["content_url"], headers={"range": "bytes=0-9"})
    assert answer.status_code == 200
    assert answer.headers["content-length"] == str(len(A))


def test_if_none_match_with_a_star_answers_304(client: httpx.Client, stored: Json) -> None:
    assert client.get(stored["content_url"], headers={"if-none-match": "*"}).status_code == 304


@pytest.mark.parametrize(
    "body", ['{"expected_uploads": "5"}', '{"expected_uploads": true}', '{"expires_in_seconds": "60"}']
)
def test_json_types_are_strict(client: httpx.Client, body: str) -> None:
    problem(client.post("/v1/batches", content=body, headers=JSON), 422, "invalid-request")


def test_an_encoded_json_body_answers_415(client: httpx.Client) -> None:
    answer = client.post("/v1/batches", content=gzip.compress(b"{}"), headers=JSON | {"content-encoding": "gzip"})
    problem(answer, 415, "unsupported-media-type")
