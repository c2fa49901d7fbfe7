"""Declaring files over a real socket: as a whole or not at all, and again to learn what is missing."""

import hashlib

import httpx
import pytest

from tests.support.services import pattern
from tests.support.wire import File, Json, finished, problem, send


def opened(client: httpx.Client, **new: object) -> str:
    url: str = client.post("/v1/batches", json=new).headers["location"]
    return url


def entry(ref: str, data: bytes, **more: object) -> Json:
    return {"ref": ref, "filename": f"{ref}.bin", "size_bytes": len(data)} | more


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def declare(client: httpx.Client, batch: str, entries: list[Json], **more: object) -> httpx.Response:
    return client.post(f"{batch}/manifest", json={"entries": entries} | more)


def test_the_account_is_right_from_the_first_moment(client: httpx.Client) -> None:
    batch = opened(client)
    files = [pattern(number, number) for number in range(100)]
    answer = declare(client, batch, [entry(str(number), data) for number, data in enumerate(files)], seal=True)
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    assert [one["ref"] for one in shown["entries"]] == [str(number) for number in range(100)]
    assert {(one["action"], one["offset"], one["status"]) for one in shown["entries"]} == {("upload", 0, "receiving")}
    account = client.get(batch).json()
    assert account == shown["batch"]
    assert (account["total_uploads"], account["receiving_uploads"], account["sealed"]) == (100, 100, True)
    assert (account["total_bytes"], account["received_bytes"]) == (sum(map(len, files)), 0)
    for one, data in zip(shown["entries"], files, strict=True):
        assert client.put(one["content_url"], content=data).status_code == 201
    assert finished(client, batch)["successful_uploads"] == 100


def test_the_same_again_says_what_is_missing_and_changes_nothing(client: httpx.Client) -> None:
    batch = opened(client)
    files = {"a": pattern(2000, 1), "b": pattern(2000, 2), "c": pattern(2000, 3)}
    entries = [entry(ref, data) for ref, data in files.items()]
    first = declare(client, batch, entries).json()["entries"]
    client.put(first[0]["content_url"], content=files["a"])
    client.put(first[1]["content_url"], content=files["b"][:500], headers={"Upload-Offset": "0"})
    client.post(f"{batch}/seal")
    before = client.get(f"{batch}/uploads").json()["items"]
    again = declare(client, batch, entries, seal=True).json()
    assert [(one["action"], one["offset"]) for one in again["entries"]] == [
        ("have", 2000),
        ("resume", 500),
        ("upload", 0),
    ]
    assert [one["upload_id"] for one in again["entries"]] == [one["upload_id"] for one in first]
    assert [one["id"] for one in client.get(f"{batch}/uploads").json()["items"]] == [one["id"] for one in before]
    problem(declare(client, batch, [*entries, entry("d", b"new")]), 409, "batch-closed")


@pytest.mark.parametrize("other", [{"size_bytes": 11}, {"sha256": "0" * 64}, {"size_bytes": 11, "sha256": "0" * 64}])
def test_the_same_ref_for_another_file_is_a_conflict_that_changes_nothing(client: httpx.Client, other: Json) -> None:
    batch = opened(client)
    entries = [entry(ref, bytes(10), sha256=sha256(b"%d" % n * 10)) for n, ref in enumerate("ab")]
    declare(client, batch, entries)
    before = client.get(batch).json()
    answer = declare(client, batch, [entries[0] | other, entries[1], entry("c", b"new")])
    assert problem(answer, 409, "ref-conflict")["refs"] == ["a"]
    assert client.get(batch).json() == before


def test_bytes_that_are_here_need_not_be_sent(client: httpx.Client) -> None:
    data = pattern(5000, 99)
    send(client, "/v1/uploads", File("first", data))
    batch = opened(client, expected_uploads=2)
    answer = declare(
        client, batch, [entry("x", data, sha256=sha256(data).upper()), entry("y", data + b"1", sha256=sha256(data))]
    ).json()
    assert [one["action"] for one in answer["entries"]] == ["have", "upload"]
    assert answer["batch"]["pending_uploads"] == 1
    assert answer["batch"]["sealed"], "all that was expected is declared"
    upload = client.get(answer["entries"][0]["url"]).json()
    assert upload["sha256"] == sha256(data)
    assert client.get(upload["content_url"]).content == data
    problem(client.put(answer["entries"][1]["content_url"], content=data + b"1"), 422, "digest-mismatch")
    account = finished(client, batch)
    assert (account["status"], account["successful_uploads"], account["failed_uploads"]) == ("completed", 1, 1)


def test_a_file_sent_twice_is_a_duplicate(client: httpx.Client) -> None:
    data = pattern(7000, 123)
    answer = send(client, "/v1/uploads", File("first", data), File("second", data))
    assert [one["status"] for one in answer.json()["results"]] == ["stored", "duplicate"]
    again = send(client, "/v1/uploads", File("third", data))
    assert [one["status"] for one in again.json()["results"]] == ["duplicate"]
    assert client.get(again.json()["results"][0]["upload"]["content_url"]).content == data


def test_a_manifest_may_be_empty(client: httpx.Client) -> None:
    assert declare(client, opened(client), [], seal=True).json()["batch"]["status"] == "completed"


def test_a_batch_that_is_cancelled_or_deleted_takes_no_bytes(client: httpx.Client) -> None:
    for ending in ("cancel", "keep", "delete"):
        batch = opened(client)
        (declared,) = declare(client, batch, [entry("a", bytes(1000))]).json()["entries"]
        assert client.put(declared["content_url"], content=bytes(10), headers={"Upload-Offset": "0"}).status_code == 200
        if ending == "cancel":
            account = client.post(f"{batch}/cancel").json()
            assert (account["cancelled_uploads"], account["received_bytes"], account["receiving_uploads"]) == (1, 0, 0)
        else:
            assert client.delete(f"{batch}?uploads={ending}").status_code == 204
        again = client.put(declared["content_url"], content=bytes(10), headers={"Upload-Offset": "10"})
        wanted = {"cancel": (409, "batch-closed"), "keep": (410, "upload-gone"), "delete": (404, "not-found")}[ending]
        problem(again, *wanted)
        if ending != "delete":
            assert client.get(declared["url"]).json()["status"] == "cancelled"
