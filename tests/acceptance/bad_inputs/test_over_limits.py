"""More than an owner may hold, or more often than a caller may ask."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.support.bad_inputs import opened
from tests.support.census import unchanged
from tests.support.postgres import Servers
from tests.support.server import Boatload, serving
from tests.support.tus import Tus, metadata
from tests.support.wire import FORM, File, multipart, problem

BYTES, FILES, BATCHES, UPLOADS = 100_000, 3, 2, 1
RATE = 4
Try = Callable[[httpx.Client, str], httpx.Response]


@pytest.fixture(scope="module")
def small(postgres_servers: Servers) -> Iterator[Boatload]:
    """A server on which nobody may hold much."""
    quotas = {"quota_bytes": BYTES, "quota_files": FILES, "quota_open_batches": BATCHES, "quota_open_uploads": UPLOADS}
    with serving(database_url=postgres_servers.get("18").create_migrated(), max_parts=10, **quotas) as running:
        yield running


@pytest.fixture
def client(small: Boatload) -> Iterator[httpx.Client]:
    with small.client() as opened:
        yield opened


@pytest.fixture
def batch(client: httpx.Client) -> Iterator[str]:
    """A batch with one file, gone with all that it holds behind the test."""
    url = opened(client)
    assert client.put(f"{url}/files/first", content=bytes(BYTES // 2)).status_code == 201
    yield url
    assert client.delete(url, params={"uploads": "delete"}).status_code == 204
    assert client.get("/v1/quota").json()["bytes"]["used"] == 0


def declare(client: httpx.Client, batch: str, *sizes: int) -> httpx.Response:
    entries = [{"ref": str(n), "filename": str(n), "size_bytes": size} for n, size in enumerate(sizes)]
    return client.post(f"{batch}/manifest", json={"entries": entries})


def create_by_tus(client: httpx.Client, batch: str) -> httpx.Response:
    name = metadata(batch_id=batch.rpartition("/")[2])
    return Tus(client).post(bytes(BYTES), upload_length=BYTES, upload_metadata=name)


OVER: dict[str, tuple[str, Try]] = {
    "put": ("bytes", lambda client, batch: client.put(f"{batch}/files/a", content=bytes(BYTES))),
    "small put": ("bytes", lambda client, batch: client.put(f"{batch}/files/a", content=bytes(BYTES // 2 + 1))),
    "chunked put": ("bytes", lambda client, batch: client.put(f"{batch}/files/a", content=iter([bytes(BYTES)]))),
    "multipart by its length": (
        "bytes",
        lambda client, batch: client.post(
            f"{batch}/uploads", content=multipart(File("a", bytes(2 * BYTES))), headers=FORM
        ),
    ),
    "manifest": ("bytes", lambda client, batch: declare(client, batch, 10, BYTES)),
    "manifest of too many": ("files", lambda client, batch: declare(client, batch, *[1] * FILES)),
    "manifest of more than may be open": ("open_uploads", lambda client, batch: declare(client, batch, 1, 1)),
    "tus": ("bytes", create_by_tus),
}


@pytest.mark.parametrize("what", OVER)
def test_over_quota(small: Boatload, client: httpx.Client, batch: str, what: str) -> None:
    quota, send = OVER[what]
    with unchanged(small):
        body = problem(send(client, batch), 413, "quota-exceeded")
    assert body["quota"] == quota
    assert body["limit"] >= body["used"] >= 0


def test_over_quota_with_batches(small: Boatload, client: httpx.Client, batch: str) -> None:
    second = opened(client)
    with unchanged(small):
        assert problem(client.post("/v1/batches"), 413, "quota-exceeded")["quota"] == "open_batches"
    assert client.delete(second).status_code == 204
    assert client.get(batch).status_code == 200


def test_over_quota_with_some_files_of_a_body(small: Boatload, client: httpx.Client, batch: str) -> None:
    parts = [File("a", b"x" * (BYTES // 2 + 1)), File("b", b"y"), File("c", b"z"), File("d", b"!")]
    with unchanged(small, failed=2, completed=2):
        answer = client.post(f"{batch}/uploads", content=multipart(*parts), headers=FORM)
        assert answer.status_code == 207
        results = answer.json()["results"]
        assert [result["status"] for result in results] == ["rejected", "stored", "stored", "rejected"]
        assert {result["problem"]["type"] for result in results if result["problem"]} == {"/problems/quota-exceeded"}


def test_over_rate(postgres_servers: Servers) -> None:
    url = postgres_servers.get("18").create_migrated()
    with serving(database_url=url, rate_requests=RATE) as server, server.client() as client:
        batch = opened(client)
        for _ in range(RATE - 1):
            assert client.get(batch).status_code == 200
        with unchanged(server):
            for answer in (
                client.put(f"{batch}/files/a", content=b"a"),
                client.post("/v1/uploads", content=multipart(File("a", b"a")), headers=FORM),
                client.post("/v1/batches"),
                client.delete(batch),
                client.get(batch),
            ):
                problem(answer, 429, "too-many-requests")
                assert 1 <= int(answer.headers["retry-after"]) <= 60
