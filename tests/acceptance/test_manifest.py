"""Declaring files over a real socket: as a whole or not at all, and again to learn what is missing."""

import hashlib
import json

import httpx
import pytest

from tests.support.services import pattern
from tests.support.wire import File, Json, all_uploads, finished, problem, send


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


WRONG: list[tuple[list[Json] | str, int, str]] = [
    ([entry("a", b""), entry("a", b"")], 422, "invalid-manifest"),
    ([entry("a", b""), {**entry("b", b""), "size_bytes": -1}], 422, "invalid-request"),
    ([entry("a", b"", sha256="abc")], 422, "invalid-request"),
    ([entry("a", b"", sha256="g" * 64)], 422, "invalid-request"),
    ([entry("a", b"", sha256=5)], 422, "invalid-request"),
    ([entry("a", b"", size_bytes="5")], 422, "invalid-request"),
    ([entry("a", b"", size_bytes=1.5)], 422, "invalid-request"),
    ([entry("a", b"", unknown=1)], 422, "invalid-request"),
    ([entry("", b"")], 422, "invalid-request"),
    ([entry("a\n", b"")], 422, "invalid-request"),
    ([entry("a\0", b"")], 422, "invalid-request"),
    ([entry("x" * 256, b"")], 422, "invalid-request"),
    ([entry("a", b"", filename="../x")], 422, "invalid-filename"),
    ([entry("a", b"", filename="")], 422, "invalid-filename"),
    ([entry("a", b"", content_type="a\r\nb")], 422, "invalid-request"),
    ([entry("a", b"", size_bytes=2**60)], 413, "file-too-large"),
    ([entry("a", b"", size_bytes=2**70)], 422, "invalid-request"),
    ([{"ref": "a"}], 422, "invalid-request"),
    ("entries", 422, "invalid-request"),
    ([entry(str(number), b"") for number in range(10_001)], 422, "invalid-request"),
]


@pytest.mark.parametrize(("entries", "status", "slug"), WRONG)
def test_what_is_wrong_anywhere_is_refused_as_a_whole(
    client: httpx.Client,
    entries: list[Json] | str,
    status: int,
    slug: str,
) -> None:
    batch = opened(client)
    before = client.get(batch).json()
    listed = [entry("fine", b""), *entries] if isinstance(entries, list) and len(entries) < 10_001 else entries
    problem(declare(client, batch, listed), status, slug)
    assert client.get(batch).json() == before
    assert all_uploads(client, batch) == []


@pytest.mark.parametrize("body", [b"[" * 10_000, b'{"entries":' * 5000, b'{"seal": NaN}', b"{", b'{"entries": null}'])
def test_json_that_makes_no_sense_is_422(client: httpx.Client, body: bytes) -> None:
    answer = client.post(f"{opened(client)}/manifest", content=body, headers={"content-type": "application/json"})
    problem(answer, 422, "invalid-request")


def test_a_body_past_the_limit_is_413(client: httpx.Client) -> None:
    body = json.dumps({"entries": [], "x": "y" * (17 << 20)}).encode()
    answer = client.post(f"{opened(client)}/manifest", content=body, headers={"content-type": "application/json"})
    problem(answer, 413, "request-too-large")


@pytest.mark.parametrize("start", [b'{"entries":[{', b"{"])
def test_a_body_of_a_million_values_is_413(client: httpx.Client, start: bytes) -> None:
    body = start + b",".join(b'"%x":0' % number for number in range(1_000_000))
    answer = client.post(f"{opened(client)}/manifest", content=body, headers={"content-type": "application/json"})
    problem(answer, 413, "request-too-large")


def test_limits_hold_for_what_is_declared(client: httpx.Client) -> None:
    batch = opened(client, expected_uploads=2)
    problem(declare(client, batch, [entry(ref, b"") for ref in "abc"]), 409, "more-than-expected")
    assert all_uploads(client, batch) == []
    missing = "/v1/batches/00000000-0000-7000-8000-000000000000"
    problem(declare(client, missing, [entry("a", b"")]), 404, "not-found")
    cancelled = opened(client)
    declare(client, cancelled, [entry("a", b"x")])
    client.post(f"{cancelled}/cancel")
    problem(declare(client, cancelled, [entry("a", b"x")]), 409, "batch-closed")
    assert declare(client, opened(client), []).status_code == 200


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
