"""Batches that are not there, that take no more, and lists that are asked for wrongly."""

import base64
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import pytest

from tests.support.bad_inputs import MAX_FILES, opened
from tests.support.census import unchanged
from tests.support.server import Boatload
from tests.support.tus import Tus, metadata
from tests.support.wire import FORM, File, Text, finished, multipart, problem, send

ONE = multipart(File("a", b"x"))
ROUTES = [
    ("GET", "/v1/batches/{}"),
    ("GET", "/v1/batches/{}/uploads"),
    ("GET", "/v1/batches/{}/events"),
    ("POST", "/v1/batches/{}/uploads"),
    ("POST", "/v1/batches/{}/manifest"),
    ("POST", "/v1/batches/{}/seal"),
    ("POST", "/v1/batches/{}/cancel"),
    ("POST", "/v1/batches/{}/retry"),
    ("PUT", "/v1/batches/{}/files/a"),
    ("DELETE", "/v1/batches/{}"),
    ("DELETE", "/v1/batches/{}?uploads=delete"),
    ("GET", "/v1/uploads/{}"),
    ("GET", "/v1/uploads/{}/content"),
    ("PUT", "/v1/uploads/{}/content"),
    ("GET", "/v1/uploads/{}/thumbnail"),
    ("DELETE", "/v1/uploads/{}"),
]
IN_VAIN = ["file bytes", "files without a row"]
"""A small file by PUT is in the pack before its batch is looked at. No row refers to it there."""
NO_ID = ["x", "0", "null", "01a20752-78bf", "%00", "%F0%9F%92%A3", "'--", "a" * 500]


@pytest.mark.parametrize(("method", "route"), ROUTES)
def test_a_batch_id_that_is_no_uuid_or_unknown(server: Boatload, client: httpx.Client, method: str, route: str) -> None:
    """All with the same body, so that nobody learns which it was."""
    with unchanged(server, besides=IN_VAIN if "files" in route else ()):
        bodies = set()
        for identity in (str(uuid4()), str(uuid4()).upper(), *NO_ID):
            form = route.endswith("/uploads") and method == "POST"
            content = ONE if form else b"x" if method == "PUT" else None
            answer = client.request(method, route.format(identity), content=content, headers=FORM if form else {})
            problem(answer, 404, "not-found")
            bodies.add(answer.content)
        assert len(bodies) == 1


def test_a_batch_field_that_names_no_batch(server: Boatload, client: httpx.Client, tus: Tus) -> None:
    known = client.get(f"/v1/batches/{uuid4()}").content
    with unchanged(server):
        for identity in (str(uuid4()), "x", "\N{SPARKLES}", "../", "0", "'--"):
            for answer in (
                send(client, "/v1/uploads", Text("batch_id", identity), File("a", b"x")),
                tus.post(upload_length=1, upload_metadata=metadata(batch_id=identity)),
            ):
                problem(answer, 404, "not-found")
                assert answer.content == known


def declared(client: httpx.Client, url: str, *refs: str) -> httpx.Response:
    entries = [{"ref": ref, "filename": ref, "size_bytes": 1} for ref in refs]
    return client.post(f"{url}/manifest", json={"entries": entries})


def by_tus(client: httpx.Client, url: str) -> httpx.Response:
    return Tus(client).post(upload_length=1, upload_metadata=metadata(batch_id=url.rpartition("/")[2]))


DOORS: dict[str, Callable[[httpx.Client, str], httpx.Response]] = {
    "multipart": lambda client, url: send(client, f"{url}/uploads", File("new", b"x")),
    "big multipart": lambda client, url: send(client, f"{url}/uploads", File("new", bytes(2 << 20))),
    "job": lambda client, url: send(client, "/v1/uploads", Text("batch_id", url.rpartition("/")[2]), File("a", b"x")),
    "put": lambda client, url: client.put(f"{url}/files/new", content=b"x"),
    "big put": lambda client, url: client.put(f"{url}/files/new", content=bytes(2 << 20)),
    "manifest": lambda client, url: declared(client, url, "new"),
    "tus": by_tus,
}


def sealed(client: httpx.Client) -> str:
    """Not finished, because one of its files is still to come."""
    url = opened(client)
    assert declared(client, url, "old").status_code == 200
    assert client.post(f"{url}/seal").json()["status"] == "processing"
    return url


def ended(client: httpx.Client) -> str:
    url: str = send(client, "/v1/uploads", File("a", b"x")).json()["url"]
    finished(client, url)
    return url


def cancelled(client: httpx.Client) -> str:
    url = opened(client)
    client.post(f"{url}/cancel")
    return url


def expired(client: httpx.Client) -> str:
    url = opened(client, expires_in_seconds=1)
    expires_at = datetime.fromisoformat(client.get(url).json()["expires_at"])
    while datetime.now(UTC) <= expires_at:
        time.sleep(0.05)
    return url


@pytest.mark.parametrize("closed", [sealed, ended, cancelled, expired])
def test_upload_into_a_sealed_finished_cancelled_or_expired_batch(
    server: Boatload, client: httpx.Client, closed: Callable[[httpx.Client], str]
) -> None:
    url = closed(client)
    with unchanged(server, besides=IN_VAIN):
        for door in DOORS.values():
            problem(door(client, url), 409, "batch-closed")


def test_more_files_than_expected_uploads(server: Boatload, client: httpx.Client) -> None:
    """None of those that come together is taken; what is expected still is."""
    url = opened(client, expected_uploads=2)
    with unchanged(server):
        problem(send(client, f"{url}/uploads", *[File("a", b"x")] * 3), 409, "more-than-expected")
        problem(declared(client, url, "a", "b", "c"), 409, "more-than-expected")
    assert send(client, f"{url}/uploads", File("a", b"x"), File("b", b"x")).status_code == 201
    with unchanged(server, besides=IN_VAIN):
        for door in DOORS.values():
            problem(door(client, url), 409, "batch-closed")


def test_more_files_than_max_files_per_batch(server: Boatload, client: httpx.Client) -> None:
    url = opened(client)
    assert declared(client, url, *map(str, range(MAX_FILES - 1))).status_code == 200
    with unchanged(server):
        problem(send(client, f"{url}/uploads", File("a", b"x"), File("b", b"x")), 413, "batch-full")
        problem(declared(client, url, "a", "b"), 413, "batch-full")
    assert client.put(f"{url}/files/last", content=b"x").status_code == 201
    with unchanged(server, besides=IN_VAIN):
        for door in DOORS.values():
            problem(door(client, url), 413, "batch-full")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", f"limit={10**9}", "limit=1001", "limit=x", "limit=", "limit=1.5", "status=done"]
)
def test_a_limit_of_0_or_10_9(client: httpx.Client, query: str) -> None:
    for path in ("/v1/batches", f"{opened(client)}/uploads"):
        body = problem(client.get(f"{path}?{query}"), 422, "invalid-request")
        assert query.partition("=")[0] in body["detail"]


@pytest.mark.parametrize(
    "cursor",
    ["x", "%00", "\u00e4", "A" * 54, "A" * 5000, "=", "..", "\N{SPARKLES}", base64.b64encode(bytes(40)).decode()],
)
def test_a_forged_cursor(client: httpx.Client, cursor: str) -> None:
    for path in ("/v1/batches", f"{opened(client)}/uploads"):
        answer = client.get(path, params={"cursor": cursor})
        problem(answer, 422, "invalid-request" if len(cursor) > 1000 else "invalid-cursor")


def test_a_cursor_that_was_changed_anywhere(client: httpx.Client) -> None:
    for _ in range(3):
        opened(client)
    cursor: str = client.get("/v1/batches?limit=1").json()["next_cursor"]
    assert client.get("/v1/batches", params={"cursor": cursor}).status_code == 200
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    for place in range(len(raw)):
        forged = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        answer = client.get("/v1/batches", params={"cursor": base64.urlsafe_b64encode(forged).rstrip(b"=").decode()})
        problem(answer, 422, "invalid-cursor")


def test_a_foreign_cursor(client: httpx.Client) -> None:
    """One of another list, or of the same list with another filter."""
    one, other = opened(client), opened(client)
    for batch in (one, other):
        send(client, f"{batch}/uploads", File("a", b"x"), File("b", b"x"))
    cursors = {
        path: client.get(path, params={"limit": 1}).json()["next_cursor"]
        for path in ("/v1/batches", f"{one}/uploads", f"{other}/uploads")
    }
    for path in cursors:
        for origin, cursor in cursors.items():
            answer = client.get(path, params={"cursor": cursor})
            assert answer.status_code == (200 if origin == path else 422)
    filtered = client.get("/v1/batches", params={"cursor": cursors["/v1/batches"], "status": "processing"})
    problem(filtered, 422, "invalid-cursor")
