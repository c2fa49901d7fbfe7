"""POST: creation, creation-defer-length, creation-with-upload (tus 1.0.0, "Creation")."""

import hashlib
import re
from email.utils import parsedate_to_datetime

import httpx
import pytest

from tests.support.tus import (
    BODY,
    ENDPOINT,
    Tus,
    checksum,
    encoded,
    identity,
    metadata,
    refused,
    states,
)
from tests.support.wire import all_uploads, finished

UUID_PATH = re.compile(r"/v1/tus/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def test_an_upload_is_created_in_a_batch_of_its_own(tus: Tus) -> None:
    answer = tus.post(upload_length=11, upload_metadata=metadata(filename="hello.txt", filetype="text/plain"))
    assert answer.status_code == 201
    assert answer.content == b""
    url = answer.headers["location"]
    assert UUID_PATH.fullmatch(url)
    assert parsedate_to_datetime(answer.headers["upload-expires"])
    upload, batch = tus.upload(url), tus.batch_of(url)
    assert (upload["status"], upload["size_bytes"], upload["received_bytes"]) == ("receiving", 11, 0)
    assert (upload["filename"], upload["content_type"]) == ("hello.txt", "text/plain")
    assert batch["sealed"]
    assert batch["status"] == "processing"
    assert batch["total_bytes"] == 11
    assert states(batch) == {"total": 1, "receiving": 1}


def test_it_is_completed_like_any_other_once_its_bytes_are_there(tus: Tus) -> None:
    url = tus.stored(b"hello world", upload_metadata=metadata(filename="hello.txt"))
    batch = finished(tus.client, tus.batch_of(url)["url"])
    assert states(batch) == {"total": 1, "processed": 1, "successful": 1}
    assert batch["received_bytes"] == batch["total_bytes"] == 11
    upload = tus.upload(url)
    assert upload["sha256"] == hashlib.sha256(b"hello world").hexdigest()
    assert tus.content(url) == b"hello world"
    assert tus.offset(url) == 11


def test_a_batch_that_is_named_takes_it(tus: Tus) -> None:
    batch = tus.open_batch()
    first = tus.create(5, batch=batch["id"])
    second = tus.create(7, batch=batch["id"])
    assert [upload["id"] for upload in all_uploads(tus.client, batch["url"])] == [identity(first), identity(second)]
    batch = tus.batch(batch["url"])
    assert not batch["sealed"]
    assert batch["total_bytes"] == 12
    assert states(batch) == {"total": 2, "receiving": 2}


def test_a_batch_seals_itself_with_the_last_one_expected(tus: Tus) -> None:
    batch = tus.open_batch(expected_uploads=1)
    url = tus.create(5, batch=batch["id"])
    refused(tus.post(upload_length=5, upload_metadata=metadata(batch_id=batch["id"])), 409, "batch-closed")
    assert tus.patch(url, 0, b"hello").status_code == 204
    assert states(finished(tus.client, batch["url"])) == {"total": 1, "processed": 1, "successful": 1}


@pytest.mark.parametrize(
    ("values", "filename"),
    [
        ({"filename": "a.txt"}, "a.txt"),
        ({"name": "a.txt"}, "a.txt"),
        ({"filename": "a.txt", "name": "b.txt"}, "a.txt"),
        ({"filename": "c.txt", "relativePath": "a/b/c.txt"}, "a/b/c.txt"),
        ({"filename": "c.txt", "relativePath": "/a/c.txt"}, "a/c.txt"),
        ({"filename": "c.txt", "relativePath": "null"}, "c.txt"),
        ({"filename": "c.txt", "relativePath": ""}, "c.txt"),
        ({"filename": "\N{SPARKLES} \N{RIGHT-TO-LEFT OVERRIDE}.txt"}, "\N{SPARKLES} \N{RIGHT-TO-LEFT OVERRIDE}.txt"),
        ({"filename": "n" * 255}, "n" * 255),
    ],
)
def test_its_name_is_what_the_client_says(tus: Tus, values: dict[str, str], filename: str) -> None:
    assert tus.upload(tus.create(1, upload_metadata=metadata(**values)))["filename"] == filename


def test_a_client_need_not_name_it(tus: Tus) -> None:
    assert tus.upload(tus.create(1))["filename"]


@pytest.mark.parametrize(
    ("values", "content_type"), [({"filetype": "a/b"}, "a/b"), ({"type": "a/b"}, "a/b"), ({}, None)]
)
def test_its_type_is_what_the_client_says(tus: Tus, values: dict[str, str], content_type: str | None) -> None:
    assert tus.upload(tus.create(1, upload_metadata=metadata(**values)))["content_type"] == content_type


@pytest.mark.parametrize("filetype", ["\x7f", "\N{SPARKLES}", "x" * 300, "\x01"])
def test_a_type_that_is_not_fit_to_be_shown_is_left_out(tus: Tus, filetype: str) -> None:
    assert tus.upload(tus.create(1, upload_metadata=metadata(filetype=filetype)))["content_type"] is None


@pytest.mark.parametrize(
    "raw",
    [
        metadata(filename="a.txt"),
        "is_confidential",
        "is_confidential,filename YS50eHQ=",
        "filename YS50eHQ=, empty , other b3RoZXI=",
        f"binary {encoded(bytes(range(256)))}",
        "key!#$%&'*+-.^_`|~/:;<=>?@[]{}() eA==",
    ],
)
def test_metadata_is_given_back_as_it_came(tus: Tus, raw: str) -> None:
    url = tus.create(1, upload_metadata=raw)
    assert tus.head(url).headers["upload-metadata"] == raw
    assert tus.patch(url, 0, b"x").status_code == 204
    assert tus.head(url).headers["upload-metadata"] == raw


def test_without_metadata_none_is_given_back(tus: Tus) -> None:
    assert "upload-metadata" not in tus.head(tus.create(1)).headers


def test_a_length_that_comes_twice_answers_400(tus: Tus, nothing_new: None) -> None:
    headers = [(b"tus-resumable", b"1.0.0"), (b"upload-length", b"1"), (b"upload-length", b"1")]
    refused(tus.client.post(ENDPOINT, headers=headers), 400, "invalid-header")


def test_an_upload_of_no_bytes_is_whole_at_once(tus: Tus) -> None:
    answer = tus.post(upload_length=0, upload_metadata=metadata(filename="empty"))
    assert answer.status_code == 201
    assert answer.headers["upload-offset"] == "0"
    url = answer.headers["location"]
    assert states(finished(tus.client, tus.batch_of(url)["url"])) == {"total": 1, "processed": 1, "successful": 1}
    head = tus.head(url)
    assert head.headers["upload-offset"] == head.headers["upload-length"] == "0"
    assert tus.content(url) == b""


def test_a_length_may_be_deferred(tus: Tus) -> None:
    answer = tus.post(upload_defer_length=1)
    assert answer.status_code == 201
    url = answer.headers["location"]
    head = tus.head(url)
    assert head.headers["upload-defer-length"] == "1"
    assert "upload-length" not in head.headers
    assert tus.upload(url)["size_bytes"] is None


def test_a_ref_makes_sending_again_safe(tus: Tus) -> None:
    batch = tus.open_batch()
    headers = {"upload_length": 10, "upload_metadata": metadata(batch_id=batch["id"], ref="photo-1", filename="p.jpg")}
    first = tus.post(**headers)
    url = first.headers["location"]
    assert tus.upload(url)["ref"] == "photo-1"
    assert tus.patch(url, 0, b"hello").status_code == 204
    again = tus.post(**headers)
    assert again.status_code == 201
    assert again.headers["location"] == url
    assert again.headers["upload-offset"] == "5"
    assert states(tus.batch(batch["url"])) == {"total": 1, "receiving": 1}
    refused(tus.post(**(headers | {"upload_length": 11})), 409, "ref-conflict")
    assert tus.offset(url) == 5


def test_bytes_sent_again_with_a_ref_do_not_count_twice(tus: Tus) -> None:
    batch = tus.open_batch()
    headers = {"upload_length": 10, "upload_metadata": metadata(batch_id=batch["id"], ref="photo-1")}
    first = tus.post(b"hello", **headers)
    assert first.headers["upload-offset"] == "5"
    again = tus.post(b"hello", **headers)
    assert again.status_code == 201
    assert (again.headers["location"], again.headers["upload-offset"]) == (first.headers["location"], "5")
    assert tus.patch(first.headers["location"], 5, b"world").status_code == 204
    whole = tus.post(b"helloworld", **headers)
    assert whole.status_code == 201
    assert (whole.headers["location"], whole.headers["upload-offset"]) == (first.headers["location"], "10")
    assert tus.content(first.headers["location"]) == b"helloworld"


@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
@pytest.mark.parametrize("size", [1, 5, 10])
def test_an_upload_may_come_with_its_bytes(tus: Tus, size: int, *, chunked: bool) -> None:
    data = b"helloworld"[:size]
    answer = tus.post(iter([data[:1], data[1:]]) if chunked else data, upload_length=10)
    assert answer.status_code == 201
    assert answer.headers["upload-offset"] == str(size)
    url = answer.headers["location"]
    assert tus.offset(url) == size
    if size < 10:
        assert tus.patch(url, size, b"helloworld"[size:]).status_code == 204
    assert tus.content(url) == b"helloworld"


def test_a_deferred_upload_may_come_with_its_first_bytes(tus: Tus) -> None:
    answer = tus.post(b"hello", upload_defer_length=1)
    assert answer.status_code == 201
    assert answer.headers["upload-offset"] == "5"
    assert tus.head(answer.headers["location"]).headers["upload-defer-length"] == "1"


def test_a_type_without_bytes_does_not_matter(tus: Tus) -> None:
    assert tus.post(b"", upload_length=5, content_type="application/json").status_code == 201
    assert tus.post(b"", upload_length=5).status_code == 201


def test_a_checksum_holds_for_the_bytes_that_come_with_it(tus: Tus) -> None:
    good = tus.post(b"hello", upload_length=10, upload_checksum=checksum("sha1", b"hello"))
    assert good.headers["upload-offset"] == "5"


@pytest.mark.parametrize("filename", ["a.txt", "folder/\N{SPARKLES}.txt"])
def test_the_rest_of_the_api_knows_it(client: httpx.Client, tus: Tus, filename: str) -> None:
    batch = tus.open_batch()
    url = tus.stored(b"12345", upload_metadata=metadata(batch_id=batch["id"], filename=filename))
    client.post(f"{batch['url']}/seal")
    assert states(finished(client, batch["url"])) == {"total": 1, "processed": 1, "successful": 1}
    assert [upload["filename"] for upload in all_uploads(client, batch["url"])] == [filename]
    assert tus.upload(url)["received_bytes"] == 5
    assert BODY["content-type"] != tus.upload(url)["content_type"]
