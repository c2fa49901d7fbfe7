"""PATCH (tus 1.0.0, "PATCH"): bytes behind the bytes that are there, and nowhere else."""

import gzip
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.tus import MAX_FILE_BYTES, Tus, encoded, metadata, refused, states
from tests.support.wire import finished


def test_bytes_go_behind_those_that_are_there(tus: Tus) -> None:
    data = os.urandom(300_000)
    url = tus.create(len(data))
    for start in range(0, len(data), 70_001):
        answer = tus.patch(url, start, data[start : start + 70_001])
        assert answer.status_code == 204
        assert answer.content == b""
        assert answer.headers["upload-offset"] == str(min(start + 70_001, len(data)))
    assert tus.content(url) == data


def test_big_pieces_are_kept_as_they_are(tus: Tus) -> None:
    data = os.urandom(20 << 20)
    url = tus.create(len(data))
    for start, end in ((0, 9 << 20), (9 << 20, (9 << 20) + 1), ((9 << 20) + 1, 20 << 20)):
        assert tus.patch(url, start, data[start:end]).headers["upload-offset"] == str(end)
    assert tus.content(url) == data


def test_a_chunked_body_needs_no_length(tus: Tus) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(10):
            yield b"0123456789"

    url = tus.create(100)
    answer = tus.patch(url, 0, pieces())
    assert answer.status_code == 204
    assert answer.headers["upload-offset"] == "100"
    assert tus.content(url) == b"0123456789" * 10


def test_no_bytes_change_nothing(tus: Tus) -> None:
    url = tus.create(5)
    assert tus.patch(url, 0, b"").headers["upload-offset"] == "0"
    assert tus.patch(url, 0, b"hello").headers["upload-offset"] == "5"
    answer = tus.patch(url, 5, b"")
    assert answer.status_code == 204
    assert answer.headers["upload-offset"] == "5"


@pytest.mark.parametrize("offset", [0, 4, 6])
def test_a_wrong_offset_in_what_is_whole_answers_409(tus: Tus, offset: int) -> None:
    url = tus.stored(b"hello")
    refused(tus.patch(url, offset, b"x"), 409, "offset-mismatch")
    assert tus.content(url) == b"hello"


def test_an_encoded_body_answers_415(tus: Tus) -> None:
    url = tus.create(10)
    answer = tus.patch(url, 0, gzip.compress(b"hello"), content_encoding="gzip")
    refused(answer, 415, "unsupported-media-type")
    assert tus.offset(url) == 0


def test_a_deferred_length_comes_with_a_piece(tus: Tus) -> None:
    url = tus.create()
    assert tus.patch(url, 0, b"hello").headers["upload-offset"] == "5"
    assert tus.patch(url, 5, b"wor", upload_length=10).status_code == 204
    head = tus.head(url)
    assert head.headers["upload-length"] == "10"
    assert "upload-defer-length" not in head.headers
    assert tus.upload(url)["size_bytes"] == 10
    assert tus.patch(url, 8, b"ld").status_code == 204
    assert tus.content(url) == b"helloworld"
    assert tus.batch_of(url)["total_bytes"] == 10


def test_a_deferred_length_may_come_last_and_without_bytes(tus: Tus) -> None:
    url = tus.create()
    tus.patch(url, 0, b"hello")
    assert tus.patch(url, 5, b"", upload_length=5).status_code == 204
    assert tus.content(url) == b"hello"
    assert states(finished(tus.client, tus.batch_of(url)["url"])) == {"total": 1, "processed": 1, "successful": 1}


def test_a_deferred_length_may_be_nothing_at_all(tus: Tus) -> None:
    url = tus.create()
    assert tus.patch(url, 0, b"", upload_length=0).status_code == 204
    assert tus.content(url) == b""


def test_a_length_that_was_given_does_not_change(tus: Tus) -> None:
    url = tus.create(10)
    refused(tus.patch(url, 0, b"hello", upload_length=11), 400, "size-conflict")
    assert tus.offset(url) == 0
    assert tus.patch(url, 0, b"hello", upload_length=10).status_code == 204
    assert tus.head(url).headers["upload-length"] == "10"


def test_a_length_under_what_is_there_is_refused(tus: Tus) -> None:
    url = tus.create()
    tus.patch(url, 0, b"hello")
    refused(tus.patch(url, 5, b"", upload_length=4), 400, "size-conflict")
    assert tus.head(url).headers["upload-defer-length"] == "1"
    refused(tus.patch(url, 5, b"world", upload_length=9), 413, "size-exceeded")
    assert tus.offset(url) == 5
    assert tus.patch(url, 5, b"world", upload_length=10).status_code == 204


@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
def test_a_deferred_upload_does_not_grow_past_the_maximum(small_tus: Tus, *, chunked: bool) -> None:
    url = small_tus.create()
    half = b"x" * (MAX_FILE_BYTES // 2)
    assert small_tus.patch(url, 0, half).status_code == 204
    more = half + b"x"
    answer = small_tus.patch(url, len(half), iter([more]) if chunked else more)
    assert answer.status_code == 413
    assert small_tus.offset(url) <= MAX_FILE_BYTES


def test_of_many_pieces_for_one_place_one_is_kept(tus: Tus) -> None:
    rounds, at_once, size = 5, 8, 1000
    url = tus.create(rounds * size)
    kept = b""
    with ThreadPoolExecutor(at_once) as threads:
        for number in range(rounds):
            pieces = [bytes([65 + each]) * size for each in range(at_once)]
            answers = list(threads.map(lambda piece, start=number * size: tus.patch(url, start, piece), pieces))
            statuses = [answer.status_code for answer in answers]
            assert statuses.count(204) == 1, statuses
            assert set(statuses) <= {204, 409, 423}
            kept += pieces[statuses.index(204)]
            assert tus.offset(url) == (number + 1) * size
    assert tus.content(url) == kept
    assert states(finished(tus.client, tus.batch_of(url)["url"])) == {"total": 1, "processed": 1, "successful": 1}


def test_a_cancelled_batch_takes_no_more_bytes(tus: Tus) -> None:
    batch = tus.open_batch()
    url = tus.create(10, batch=batch["id"])
    tus.patch(url, 0, b"hello")
    tus.client.post(f"{batch['url']}/cancel")
    refused(tus.patch(url, 5, b"world"), 410, "upload-gone")
    head = tus.head(url)
    assert head.status_code == 410
    assert "upload-offset" not in head.headers
    assert states(tus.batch(batch["url"])) == {"total": 1, "cancelled": 1}


def test_a_sealed_batch_takes_the_bytes_of_what_was_declared(tus: Tus) -> None:
    batch = tus.open_batch()
    url = tus.create(10, batch=batch["id"])
    tus.client.post(f"{batch['url']}/seal")
    assert tus.patch(url, 0, b"helloworld").status_code == 204
    assert states(finished(tus.client, batch["url"])) == {"total": 1, "processed": 1, "successful": 1}


def test_received_bytes_are_counted_as_they_come(tus: Tus) -> None:
    batch = tus.open_batch()
    url = tus.create(10, batch=batch["id"])
    tus.patch(url, 0, b"hello")
    assert tus.batch(batch["url"])["received_bytes"] == 5
    assert tus.upload(url)["received_bytes"] == 5
    assert tus.batch(batch["url"])["total_bytes"] == 10


def test_a_client_may_claim_what_it_likes_in_metadata(tus: Tus) -> None:
    raw = metadata(filename="a") + f",Upload-Offset {encoded('5')}"
    url = tus.create(10, upload_metadata=raw)
    assert tus.offset(url) == 0
