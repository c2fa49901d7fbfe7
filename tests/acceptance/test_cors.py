"""CORS (Fetch standard): off unless configured; then a page of that origin may call, and read what it needs to."""

import httpx
import pytest

from app.api.cors import EXPOSED
from tests.support.server import Boatload
from tests.support.tus import ORIGIN

ASK = {
    "access-control-request-method": "PATCH",
    "access-control-request-headers": "tus-resumable,upload-offset,content-type,x-request-id,authorization",
}
ROUTES = ["/v1/tus", "/v1/tus/x", "/v1/batches", "/v1/uploads", "/nope"]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:3000"])
def test_a_preflight_of_a_configured_origin_is_answered(behind_proxy: Boatload, path: str, origin: str) -> None:
    with behind_proxy.client() as client:
        answer = client.options(path, headers=ASK | {"origin": origin})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert "origin" in answer.headers["vary"].lower()
    allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert allowed >= set(ASK["access-control-request-headers"].split(","))
    methods = {name.strip() for name in answer.headers["access-control-allow-methods"].split(",")}
    assert methods >= {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("origin", ["https://evil.example", "null", ORIGIN + ".evil.example", ORIGIN.upper()])
def test_another_origin_is_not_let_in(behind_proxy: Boatload, origin: str) -> None:
    with behind_proxy.client() as client:
        preflight = client.options("/v1/tus", headers=ASK | {"origin": origin})
        answer = client.get("/v1/batches", headers={"origin": origin})
    assert preflight.status_code == 400
    assert "access-control-allow-origin" not in preflight.headers
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/batches", 200), ("/v1/batches/x", 404), ("/nope", 404), ("/v1/tus", 405)]
)
def test_a_page_may_read_the_headers_that_clients_need(behind_proxy: Boatload, path: str, status: int) -> None:
    with behind_proxy.client() as client:
        answer = client.get(path, headers={"origin": ORIGIN})
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert exposed == set(EXPOSED)
    assert exposed >= {"Location", "Upload-Offset", "Upload-Length", "Upload-Expires", "Tus-Version", "ETag", "Link"}
    assert exposed >= {"Tus-Resumable", "Tus-Max-Size", "Tus-Extension", "Retry-After", "X-Request-Id", "Repr-Digest"}


def test_without_origins_configured_nobody_is_let_in(client: httpx.Client) -> None:
    for answer in (
        client.options("/v1/batches", headers=ASK | {"origin": ORIGIN}),
        client.get("/v1/batches", headers={"origin": ORIGIN}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]
