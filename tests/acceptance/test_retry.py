"""`POST /v1/batches/{id}/retry` and the history of attempts, over HTTP and with real workers."""

import uuid
from collections.abc import Iterator
from typing import Final

import httpx
import pytest

from tests.support.embedded import wait_for
from tests.support.postgres import Servers
from tests.support.server import Boatload, serving
from tests.support.wire import File, Json, all_uploads, counts, everything, finished, problem, send
from tests.support.workers import workers_of

FILES: Final = [File(f"{number}", b"x" * number) for number in range(5)]
REFUSED: Final = File("..", b"x")


@pytest.fixture(scope="module")
def idle_server(postgres_servers: Servers) -> Iterator[Boatload]:
    with serving(database_url=postgres_servers.get("18").create_migrated(), worker=False) as server:
        yield server


@pytest.fixture
def client(idle_server: Boatload) -> Iterator[httpx.Client]:
    with idle_server.client() as opened:
        yield opened


@pytest.fixture
def failed(idle_server: Boatload, client: httpx.Client) -> Json:
    """A finished batch of five files whose only worker was killed, and one that was refused."""
    with workers_of(idle_server, lease_seconds=1, max_attempts=1) as [worker]:
        worker.start()
        finished(client, send(client, "/v1/uploads", FILES[0]).json()["url"])
        [helper] = worker.helpers()
        helper.suspend()
        url: str = send(client, "/v1/uploads", *FILES, REFUSED).json()["url"]
        wait_for(lambda: client.get(url).json()["processing_uploads"] == len(FILES), 20)
        worker.kill()
        worker.start()
        return finished(client, url)


def test_what_failed_is_processed_again_and_its_history_is_kept(
    idle_server: Boatload, client: httpx.Client, failed: Json
) -> None:
    assert (failed["status"], counts(failed)) == ("failed", (6, 6, 0, 6))
    before = {upload["filename"]: upload for upload in all_uploads(client, failed["url"])}
    assert before["1"]["error"]["type"] == "/problems/attempts-exhausted"
    assert before["1"]["attempts"] == 1

    answer = client.post(f"{failed['url']}/retry")
    again = answer.json()
    assert answer.status_code == 200
    assert answer.headers["etag"] == f'"{again["version"]}"'
    assert "retry-after" in answer.headers
    assert (again["status"], again["pending_uploads"], again["failed_uploads"]) == ("processing", 5, 1)
    assert (again["completed_at"], again["error_message"], again["sealed"]) == (None, None, True)
    assert again["version"] == failed["version"] + 1
    assert client.post(f"{failed['url']}/retry").json() == again, "there is nothing more to retry"

    with workers_of(idle_server) as [worker]:
        worker.start()
        done = finished(client, failed["url"])
    assert (done["status"], counts(done)) == ("completed", (6, 6, 5, 1))
    for upload in all_uploads(client, failed["url"]):
        history = client.get(f"/v1/uploads/{upload['id']}/attempts").json()
        if upload["filename"] == "..":
            assert (upload["status"], upload["attempts"], history["items"]) == ("failed", 0, [])
            continue
        assert (upload["status"], upload["attempts"], upload["error"]) == ("completed", 2, None)
        [lost] = history["items"]
        assert (lost["attempt"], lost["error"]["type"]) == (1, "/problems/worker-lost")
        assert lost.keys() == {"attempt", "ended_at", "error"}


def test_only_the_uploads_that_are_named_are_retried(client: httpx.Client, failed: Json) -> None:
    ids = {upload["filename"]: upload["id"] for upload in all_uploads(client, failed["url"])}
    retry = f"{failed['url']}/retry"
    assert client.post(retry, json={"upload_ids": []}).json() == failed
    assert client.post(retry, json={"upload_ids": [ids[".."]]}).json() == failed
    again = client.post(retry, json={"upload_ids": [ids["1"], ids["1"], ids["3"]]}).json()
    assert (again["pending_uploads"], again["failed_uploads"]) == (2, 4)
    assert client.get(f"{failed['url']}/uploads?status=pending").json()["items"][0]["error"] is None
    problem(client.post(retry, json={"upload_ids": [ids["2"], str(uuid.uuid4())]}), 404, "not-found")
    assert client.get(failed["url"]).json() == again


@pytest.mark.parametrize(
    "body",
    [
        {"upload_ids": "all"},
        {"upload_ids": [1]},
        {"upload_ids": ["x"]},
        {"uploads": []},
        {"upload_ids": [str(uuid.UUID(int=number)) for number in range(10_001)]},
        [],
    ],
    ids=["a string", "numbers", "no id", "another field", "too many", "a list"],
)
def test_a_body_that_makes_no_sense_is_refused(client: httpx.Client, body: object) -> None:
    url = client.post("/v1/batches").json()["url"]
    problem(client.post(f"{url}/retry", json=body), 422, "invalid-request")


def test_ten_thousand_ids_are_looked_at(client: httpx.Client) -> None:
    url = client.post("/v1/batches").json()["url"]
    ids = [str(uuid.UUID(int=number)) for number in range(10_000)]
    problem(client.post(f"{url}/retry", json={"upload_ids": ids}), 404, "not-found")


def test_a_batch_in_which_nothing_failed_stays_as_it_is(client: httpx.Client) -> None:
    batch = client.post("/v1/batches").json()
    assert client.post(f"{batch['url']}/retry").json() == batch
    assert client.post(f"{batch['url']}/retry", json={"upload_ids": None}).json() == batch


def test_what_is_not_there_has_no_retry_and_no_history(client: httpx.Client) -> None:
    problem(client.post(f"/v1/batches/{uuid.uuid4()}/retry"), 404, "not-found")
    problem(client.get(f"/v1/uploads/{uuid.uuid4()}/attempts"), 404, "not-found")
    problem(client.get("/v1/uploads/x/attempts"), 404, "not-found")


def test_the_history_is_read_page_by_page(idle_server: Boatload, client: httpx.Client, failed: Json) -> None:
    upload = next(upload for upload in all_uploads(client, failed["url"]) if upload["filename"] == "1")
    with workers_of(idle_server, lease_seconds=1, max_attempts=1) as [worker]:
        for _ in range(2):
            worker.start()
            finished(client, send(client, "/v1/uploads", FILES[0]).json()["url"])
            for helper in worker.helpers():
                helper.suspend()
            client.post(f"{failed['url']}/retry", json={"upload_ids": [upload["id"]]})
            wait_for(lambda: client.get(failed["url"]).json()["processing_uploads"] == 1, 20)
            worker.kill()
            worker.start()
            finished(client, failed["url"])
            worker.kill()
    address = f"/v1/uploads/{upload['id']}/attempts"
    assert [one["attempt"] for one in everything(client, f"{address}?limit=1")] == [1, 2, 3]
    problem(client.get(f"{address}?cursor=x"), 422, "invalid-cursor")
