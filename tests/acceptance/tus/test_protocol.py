"""What holds for every request and answer (tus 1.0.0, "Headers"): versions, and the method that was meant."""

import httpx
import pytest

from tests.support.tus import BODY, ENDPOINT, VERSION, Tus, refused
from tests.support.wire import problem


@pytest.mark.parametrize("method", ["GET", "PUT", "QUERY"])
def test_a_method_that_tus_has_not_answers_405(tus: Tus, method: str) -> None:
    problem(tus.request(method, ENDPOINT), 405, "method-not-allowed")
    answer = tus.request(method, tus.create(5))
    problem(answer, 405, "method-not-allowed")
    assert {name.strip() for name in answer.headers["allow"].split(",")} == {"OPTIONS", "HEAD", "PATCH", "DELETE"}


@pytest.mark.parametrize("real", ["POST", "GET", "PUT", "PATCH"])
def test_an_overriding_method_is_the_method(tus: Tus, real: str) -> None:
    url = tus.create(5)
    answer = tus.request(real, url, b"hello", **BODY, upload_offset=0, x_http_method_override="PATCH")
    assert answer.status_code == 204, answer.text
    assert answer.headers["upload-offset"] == "5"
    answer = tus.request(real, url, x_http_method_override="HEAD")
    assert answer.status_code == 200
    assert answer.headers["upload-offset"] == "5"
    assert tus.request(real, url, x_http_method_override="DELETE").status_code == 204
    assert tus.head(url).status_code in {404, 410}


def test_an_overriding_method_that_is_none_answers_405(tus: Tus) -> None:
    for method in ("NOPE", "GET"):
        refused(tus.request("POST", tus.create(5), x_http_method_override=method), 405, "method-not-allowed")


def test_a_method_is_overridden_nowhere_else(client: httpx.Client) -> None:
    answer = client.post("/v1/batches", headers={"x-http-method-override": "GET"})
    assert answer.status_code == 201


def test_no_answer_forgets_its_version(client: httpx.Client) -> None:
    for method, path in (
        ("POST", ENDPOINT),
        ("HEAD", f"{ENDPOINT}/x"),
        ("GET", ENDPOINT),
        ("PATCH", f"{ENDPOINT}/a/b"),
    ):
        answer = client.request(method, path, headers=VERSION)
        assert answer.status_code >= 400
        assert answer.headers["tus-resumable"] == "1.0.0"
