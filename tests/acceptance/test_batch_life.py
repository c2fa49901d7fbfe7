"""Sealing, cancelling, expiring and deleting, and the exact counts behind each."""

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.postgres import Servers
from tests.support.server import Boatload, serving
from tests.support.wire import FINAL, File, Json, Text, all_uploads, counts, finished, problem, send, verdicts

GOOD = File("good.txt", b"good")
BAD = File("../bad.txt", b"bad")


@pytest.fixture
def url(each_client: httpx.Client) -> str:
    """The address of a new batch."""
    location: str = each_client.post("/v1/batches").headers["location"]
    return location


def add(client: httpx.Client, url: str, *files: File, status: int = 201) -> list[Json]:
    """Add files; return the results."""
    answer = send(client, f"{url}/uploads", *files)
    assert answer.status_code == status, answer.text
    results: list[Json] = answer.json()["results"]
    return results


def test_an_empty_batch_completes_when_it_is_sealed(each_client: httpx.Client, url: str) -> None:
    answer = each_client.post(f"{url}/seal")
    batch = answer.json()
    assert (answer.status_code, batch["status"], batch["sealed"]) == (200, "completed", True)
    assert counts(batch) == (0, 0, 0, 0)
    assert batch["completed_at"] == batch["sealed_at"]


def test_a_batch_finishes_only_once_it_is_sealed(each_client: httpx.Client, url: str) -> None:
    add(each_client, url, GOOD)
    deadline = time.monotonic() + 20
    while (batch := each_client.get(url).json())["processed_uploads"] == 0:
        assert time.monotonic() < deadline
    assert (batch["status"], batch["completed_at"], batch["progress_percentage"]) == ("processing", None, 100)
    sealed = each_client.post(f"{url}/seal").json()
    assert (sealed["status"], sealed["sealed"]) == ("completed", True)
    assert counts(sealed) == (1, 1, 1, 0)


def test_sealing_twice_is_sealing_once(each_client: httpx.Client, url: str) -> None:
    add(each_client, url, GOOD)
    each_client.post(f"{url}/seal")
    batch = finished(each_client, url)
    again = each_client.post(f"{url}/seal")
    assert (again.status_code, again.json()) == (200, batch)


def test_one_request_adds_to_the_batch_that_its_field_names(each_client: httpx.Client, url: str) -> None:
    answer = send(each_client, "/v1/uploads", Text("batch_id", url.rpartition("/")[2]), GOOD, GOOD)
    assert answer.status_code == 201
    assert (answer.json()["url"], answer.json()["batch"]["sealed"]) == (url, False)
    assert len(all_uploads(each_client, url)) == 2


def test_the_batch_must_be_named_before_the_files(each_client: httpx.Client, url: str) -> None:
    answer = send(each_client, "/v1/uploads", GOOD, Text("batch_id", url.rpartition("/")[2]))
    problem(answer, 422, "invalid-field")
    assert all_uploads(each_client, url) == []


def test_cancelling_an_empty_batch_closes_it(each_client: httpx.Client, url: str) -> None:
    batch = each_client.post(f"{url}/cancel").json()
    assert (batch["status"], counts(batch)) == ("cancelled", (0, 0, 0, 0))
    problem(send(each_client, f"{url}/uploads", GOOD), 409, "batch-closed")
    problem(each_client.post(f"{url}/seal"), 409, "batch-closed")
    assert each_client.post(f"{url}/cancel").json() == batch
    assert each_client.get(url).json() == batch


def test_cancelling_a_finished_batch_answers_409(each_client: httpx.Client, url: str) -> None:
    batch = each_client.post(f"{url}/seal").json()
    problem(each_client.post(f"{url}/cancel"), 409, "batch-closed")
    assert each_client.get(url).json() == batch


def test_cancelling_under_way_leaves_every_upload_in_one_final_state(each_client: httpx.Client, url: str) -> None:
    add(each_client, url, *(File(f"{number}", b"x" * number) for number in range(300)), BAD, status=207)
    answer = each_client.post(f"{url}/cancel")
    assert answer.status_code == 200
    batch = answer.json()
    assert batch["status"] == "cancelled"
    time.sleep(1)
    assert each_client.get(url).json() == batch
    uploads = all_uploads(each_client, url)
    states = [upload["status"] for upload in uploads]
    assert set(states) <= FINAL
    assert (states.count("completed"), states.count("cancelled")) == (
        batch["successful_uploads"],
        batch["cancelled_uploads"],
    )
    assert states.count("failed") == batch["failed_uploads"] == 1
    assert len(states) == batch["total_uploads"] == 301
    problem(send(each_client, f"{url}/uploads", GOOD), 409, "batch-closed")


def test_files_that_no_worker_took_are_cancelled_and_their_bytes_stay(server_without_worker: Boatload) -> None:
    with server_without_worker.client() as client:
        url = client.post("/v1/batches").headers["location"]
        results = add(client, url, GOOD, BAD, GOOD, status=207)
        waiting = client.get(url).json()
        assert (waiting["status"], waiting["pending_uploads"]) == ("processing", 2)
        batch = client.post(f"{url}/cancel").json()
        assert (batch["status"], batch["cancelled_uploads"], batch["pending_uploads"]) == ("cancelled", 2, 0)
        assert counts(batch) == (3, 1, 0, 1)
        assert [upload["status"] for upload in all_uploads(client, url)] == ["cancelled", "failed", "cancelled"]
        assert client.get(results[0]["upload"]["content_url"]).content == b"good"


@pytest.fixture(scope="module")
def server_without_worker(postgres_servers: Servers) -> Iterator[Boatload]:
    with serving(database_url=postgres_servers.get("18").create_migrated(), worker="false") as running:
        yield running


def test_a_deleted_batch_leaves_its_uploads_behind(each_client: httpx.Client, url: str) -> None:
    upload = add(each_client, url, GOOD)[0]["upload"]
    each_client.post(f"{url}/seal")
    finished(each_client, url)
    assert each_client.delete(url).status_code == 204
    problem(each_client.get(url), 404, "not-found")
    problem(each_client.get(f"{url}/uploads"), 404, "not-found")
    problem(each_client.delete(url), 404, "not-found")
    left = each_client.get(f"/v1/uploads/{upload['id']}").json()
    assert (left["batch_id"], left["status"]) == (None, "completed")
    assert each_client.get(upload["content_url"]).content == b"good"
    assert each_client.delete(f"/v1/uploads/{upload['id']}").status_code == 204


def test_a_batch_deleted_with_its_uploads_takes_them_along(each_client: httpx.Client, url: str) -> None:
    upload = add(each_client, url, GOOD, BAD, status=207)[0]["upload"]
    assert each_client.delete(f"{url}?uploads=delete").status_code == 204
    for gone in (url, f"/v1/uploads/{upload['id']}", upload["content_url"]):
        problem(each_client.get(gone), 404, "not-found")


def test_deleting_a_batch_in_any_other_way_answers_422(client: httpx.Client) -> None:
    url = client.post("/v1/batches").headers["location"]
    problem(client.delete(f"{url}?uploads=perhaps"), 422, "invalid-request")
    assert client.get(url).status_code == 200


def test_a_batch_deleted_while_it_is_worked_on_does_not_disturb_the_work(each_client: httpx.Client, url: str) -> None:
    results = add(each_client, url, *(File(f"{number}", b"x") for number in range(50)))
    assert each_client.delete(url).status_code == 204
    deadline = time.monotonic() + 20
    for result in results:
        while (upload := each_client.get(f"/v1/uploads/{result['upload']['id']}").json())["status"] != "completed":
            assert time.monotonic() < deadline, upload
            time.sleep(0.05)
        assert upload["batch_id"] is None


def test_a_deleted_upload_is_counted_out(each_client: httpx.Client, url: str) -> None:
    kept, gone, refused = (
        result["upload"]["id"] for result in add(each_client, url, File("kept", b"12345"), GOOD, BAD, status=207)
    )
    each_client.post(f"{url}/seal")
    before = finished(each_client, url)
    assert counts(before) == (3, 3, 2, 1)
    assert each_client.delete(f"/v1/uploads/{gone}").status_code == 204
    problem(each_client.delete(f"/v1/uploads/{gone}"), 404, "not-found")
    problem(each_client.get(f"/v1/uploads/{gone}/content"), 404, "not-found")
    batch = each_client.get(url).json()
    assert counts(batch) == (2, 2, 1, 1)
    assert batch["total_bytes"] == batch["received_bytes"] == 5
    assert (batch["status"], batch["version"]) == ("completed", before["version"] + 1)
    assert each_client.delete(f"/v1/uploads/{refused}").status_code == 204
    assert counts(each_client.get(url).json()) == (1, 1, 1, 0)
    assert [upload["id"] for upload in all_uploads(each_client, url)] == [kept]


def test_a_batch_seals_itself_when_all_that_was_expected_is_there(each_client: httpx.Client) -> None:
    url = each_client.post("/v1/batches", json={"expected_uploads": 3}).headers["location"]
    add(each_client, url, GOOD, GOOD)
    assert not each_client.get(url).json()["sealed"]
    problem(send(each_client, f"{url}/uploads", GOOD, GOOD), 409, "more-than-expected")
    assert each_client.get(url).json()["total_uploads"] == 2
    add(each_client, url, GOOD)
    assert counts(finished(each_client, url)) == (3, 3, 3, 0)
    problem(send(each_client, f"{url}/uploads", GOOD), 409, "batch-closed")


def test_refused_files_count_among_the_expected(each_client: httpx.Client) -> None:
    url = each_client.post("/v1/batches", json={"expected_uploads": 2}).headers["location"]
    add(each_client, url, GOOD, BAD, status=207)
    assert counts(finished(each_client, url)) == (2, 2, 1, 1)


def test_an_expired_batch_takes_no_more_and_can_still_be_sealed(each_client: httpx.Client) -> None:
    url = each_client.post("/v1/batches", json={"expires_in_seconds": 1}).headers["location"]
    add(each_client, url, GOOD)
    time.sleep(1.1)
    problem(send(each_client, f"{url}/uploads", GOOD), 409, "batch-closed")
    each_client.post(f"{url}/seal")
    assert counts(finished(each_client, url)) == (1, 1, 1, 0)


def test_a_refused_file_is_a_failed_upload_beside_those_taken(each_client: httpx.Client) -> None:
    answer = send(each_client, "/v1/uploads", GOOD, BAD, File("nul\0", b"x"), GOOD)
    assert answer.status_code == 207
    body = answer.json()
    assert verdicts(body["results"]) == ["taken", "rejected", "rejected", "taken"]
    refused = body["results"][1]
    assert refused["problem"]["type"] == "/problems/invalid-filename"
    assert refused["problem"]["status"] == 422
    upload = each_client.get(f"/v1/uploads/{refused['upload']['id']}").json()
    assert (upload["status"], upload["received_bytes"], upload["sha256"]) == ("failed", 0, None)
    assert upload["error"] == refused["problem"]
    assert upload["content_url"] is None
    problem(each_client.get(f"/v1/uploads/{upload['id']}/content"), 404, "content-unavailable")
    batch = finished(each_client, body["url"])
    assert (batch["status"], counts(batch)) == ("completed", (4, 4, 2, 2))


def test_a_request_of_which_nothing_was_taken_answers_422_and_fails(each_client: httpx.Client) -> None:
    answer = send(each_client, "/v1/uploads", BAD, File("/etc/passwd", b"x"), File("", b"x"))
    body = problem(answer, 422, "no-file-taken")
    assert [(result["index"], result["status"]) for result in body["results"]] == [
        (0, "rejected"),
        (1, "rejected"),
        (2, "rejected"),
    ]
    batch = finished(each_client, body["url"])
    assert (batch["status"], counts(batch)) == ("failed", (3, 3, 0, 3))
    assert batch["error_message"]


def test_a_failed_upload_does_not_keep_the_same_file_out(each_client: httpx.Client, url: str) -> None:
    add(each_client, url, BAD, status=422)
    add(each_client, url, File("bad.txt", b"bad"))
    each_client.post(f"{url}/seal")
    assert counts(finished(each_client, url)) == (2, 2, 1, 1)
