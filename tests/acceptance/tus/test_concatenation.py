"""Upload-Concat (tus 1.0.0, "Concatenation"): pieces sent side by side become one file, and only that counts."""

import os
from uuid import uuid4

import httpx
import pytest

from tests.support.tus import MAX_FILE_BYTES, Tus, identity, metadata, refused, states
from tests.support.wire import all_uploads, finished, problem


def partial(tus: Tus, data: bytes) -> str:
    return tus.stored(data, upload_concat="partial")


def concatenate(tus: Tus, *urls: str, **headers: object) -> httpx.Response:
    return tus.post(upload_concat=f"final;{' '.join(urls)}", **headers)


@pytest.mark.parametrize("sizes", [(5, 5), (1, 0, 1), (70_000, 3, 200_000), (3 << 20, 9 << 20)])
def test_the_final_upload_is_its_parts_in_their_order(tus: Tus, sizes: tuple[int, ...]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    urls = [partial(tus, piece) for piece in reversed(pieces)][::-1]
    answer = concatenate(tus, *urls, upload_metadata=metadata(filename="whole.bin"))
    assert answer.status_code == 201, answer.text
    url = answer.headers["location"]
    assert tus.content(url) == b"".join(pieces)
    upload = tus.upload(url)
    assert (upload["filename"], upload["size_bytes"]) == ("whole.bin", sum(sizes))
    assert states(finished(tus.client, tus.batch_of(url)["url"])) == {"total": 1, "processed": 1, "successful": 1}


def test_head_tells_partial_from_final(tus: Tus) -> None:
    first, second = partial(tus, b"hello"), partial(tus, b"world!")
    head = tus.head(first)
    assert head.headers["upload-concat"] == "partial"
    assert (head.headers["upload-offset"], head.headers["upload-length"]) == ("5", "5")
    url = concatenate(tus, first, second).headers["location"]
    head = tus.head(url)
    assert head.headers["upload-concat"] == f"final;{first} {second}"
    assert (head.headers["upload-offset"], head.headers["upload-length"]) == ("11", "11")
    assert "upload-concat" not in tus.head(tus.create(1)).headers


def test_partial_uploads_count_nowhere(tus: Tus) -> None:
    batch = tus.open_batch()
    named = metadata(batch_id=batch["id"], filename="part")
    urls = [tus.create(5, upload_concat="partial", upload_metadata=named), tus.create(5, upload_concat="partial")]
    for url in urls:
        tus.patch(url, 0, b"hello")
    assert states(tus.batch(batch["url"])) == {}
    newest = tus.client.get("/v1/batches?limit=1").json()["items"]
    assert [one["id"] for one in newest] == [batch["id"]]
    answer = concatenate(tus, *urls, upload_metadata=metadata(batch_id=batch["id"], filename="both", ref="r"))
    assert answer.status_code == 201
    assert [upload["filename"] for upload in all_uploads(tus.client, batch["url"])] == ["both"]
    tus.client.post(f"{batch['url']}/seal")
    end = finished(tus.client, batch["url"])
    assert states(end) == {"total": 1, "processed": 1, "successful": 1}
    assert end["received_bytes"] == end["total_bytes"] == 10


def test_parts_may_be_named_by_whole_urls(tus: Tus) -> None:
    first, second = partial(tus, b"hello"), partial(tus, b"world")
    answer = concatenate(
        tus, f"http://files.example.org/prefix{first}", f"{tus.client.base_url}{second}".replace("//v1", "/v1")
    )
    assert answer.status_code == 201, answer.text
    assert tus.content(answer.headers["location"]) == b"helloworld"


def test_a_part_may_be_used_again_and_twice(tus: Tus) -> None:
    part = partial(tus, b"ab")
    once, twice = concatenate(tus, part), concatenate(tus, part, part)
    assert tus.content(once.headers["location"]) == b"ab"
    assert tus.content(twice.headers["location"]) == b"abab"


def test_sending_again_with_a_ref_has_one_effect(tus: Tus) -> None:
    batch = tus.open_batch()
    urls = [partial(tus, b"hello"), partial(tus, b"world")]
    named = metadata(batch_id=batch["id"], ref="whole")
    first, again = (concatenate(tus, *urls, upload_metadata=named) for _ in range(2))
    assert again.status_code == 201
    assert again.headers["location"] == first.headers["location"]
    assert tus.batch(batch["url"])["total_uploads"] == 1
    refused(concatenate(tus, *reversed(urls), upload_metadata=named), 409, "ref-conflict")


def test_parts_that_are_not_whole_are_refused(tus: Tus) -> None:
    batch = tus.open_batch()
    whole, half = partial(tus, b"hello"), tus.create(10, upload_concat="partial")
    tus.patch(half, 0, b"world")
    named = metadata(batch_id=batch["id"])
    refused(concatenate(tus, whole, half, upload_metadata=named), 409, "parts-unfinished")
    assert states(tus.batch(batch["url"])) == {}
    assert tus.patch(half, 5, b"again").status_code == 204
    assert concatenate(tus, whole, half, upload_metadata=named).status_code == 201


def test_only_partial_uploads_are_parts(tus: Tus) -> None:
    whole = tus.stored(b"hello")
    finished(tus.client, tus.batch_of(whole)["url"])
    refused(concatenate(tus, whole), 404, "not-found")
    final = concatenate(tus, partial(tus, b"x")).headers["location"]
    refused(concatenate(tus, final), 404, "not-found")


def test_a_final_upload_has_no_length_of_its_own(tus: Tus) -> None:
    url = partial(tus, b"hello")
    refused(concatenate(tus, url, upload_length=5), 400, "invalid-header")
    refused(concatenate(tus, url, upload_defer_length=1), 400, "invalid-header")


def test_a_final_upload_takes_no_bytes(tus: Tus) -> None:
    url = concatenate(tus, partial(tus, b"hello")).headers["location"]
    for offset in (0, 5):
        refused(tus.patch(url, offset, b"x"), 403, "final-upload")
    assert tus.content(url) == b"hello"
    part = partial(tus, b"hello")
    answer = tus.post(b"more", upload_concat=f"final;{part}")
    refused(answer, 403, "final-upload")


def test_a_partial_upload_may_be_of_deferred_length(tus: Tus) -> None:
    url = tus.create(upload_concat="partial")
    tus.patch(url, 0, b"hello")
    refused(concatenate(tus, url), 409, "parts-unfinished")
    tus.patch(url, 5, b"", upload_length=5)
    assert tus.content(concatenate(tus, url).headers["location"]) == b"hello"


def test_a_partial_upload_may_come_with_its_bytes(tus: Tus) -> None:
    answer = tus.post(b"hello", upload_length=5, upload_concat="partial")
    assert answer.headers["upload-offset"] == "5"
    assert tus.content(concatenate(tus, answer.headers["location"]).headers["location"]) == b"hello"


def test_the_bytes_of_a_partial_upload_are_not_a_file(tus: Tus) -> None:
    url = partial(tus, b"hello")
    problem(tus.client.get(f"/v1/uploads/{identity(url)}/content"), 404, "content-unavailable")


def test_a_partial_upload_can_be_deleted(tus: Tus) -> None:
    url = partial(tus, b"hello")
    assert tus.delete(url).status_code == 204
    refused(concatenate(tus, url), 404, "not-found")


def test_parts_over_the_maximum_are_refused(small_tus: Tus) -> None:
    urls = [partial(small_tus, b"x" * (MAX_FILE_BYTES // 2 + 1)) for _ in range(2)]
    refused(concatenate(small_tus, *urls), 413, "file-too-large")


def test_a_closed_batch_takes_no_final_upload(tus: Tus) -> None:
    batch = tus.open_batch()
    url = partial(tus, b"hello")
    tus.client.post(f"{batch['url']}/seal")
    refused(concatenate(tus, url, upload_metadata=metadata(batch_id=batch["id"])), 409, "batch-closed")
    refused(concatenate(tus, url, upload_metadata=metadata(batch_id=str(uuid4()))), 404, "not-found")
