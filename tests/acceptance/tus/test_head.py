"""HEAD (tus 1.0.0, "HEAD"): where to go on, exact, and never out of a cache."""

from email.utils import parsedate_to_datetime

import pytest

from tests.support.tus import ENDPOINT, Tus
from tests.support.values import UNKNOWN
from tests.support.wire import finished


def test_it_says_where_to_go_on(tus: Tus) -> None:
    url = tus.create(10)
    for offset, data in ((0, b"hel"), (3, b"lo"), (5, b"world")):
        head = tus.head(url)
        assert head.status_code == 200
        assert head.headers["upload-offset"] == str(offset)
        assert head.headers["upload-length"] == "10"
        assert "upload-defer-length" not in head.headers
        assert parsedate_to_datetime(head.headers["upload-expires"])
        assert head.headers["cache-control"] == "no-store"
        assert head.content == b""
        assert tus.patch(url, offset, data).status_code == 204
    assert tus.offset(url) == 10


def test_it_answers_for_ever_for_what_is_whole(tus: Tus) -> None:
    url = tus.stored(b"hello")
    finished(tus.client, tus.batch_of(url)["url"])
    head = tus.head(url)
    assert head.status_code == 200
    assert head.headers["upload-offset"] == head.headers["upload-length"] == "5"
    assert head.headers["cache-control"] == "no-store"
    assert "upload-expires" not in head.headers


def test_it_answers_for_files_of_other_doors(tus: Tus) -> None:
    answer = tus.client.post("/v1/uploads", files={"file": ("a.txt", b"hello")})
    head = tus.head(f"{ENDPOINT}/{answer.json()['results'][0]['upload']['id']}")
    assert head.status_code == 200
    assert head.headers["upload-offset"] == head.headers["upload-length"] == "5"


@pytest.mark.parametrize("identity", [UNKNOWN, "x", "..%2f..%2fetc%2fpasswd", "%00", "0", "'--", "a" * 500])
def test_what_is_not_there_answers_404_without_an_offset(tus: Tus, identity: str) -> None:
    answer = tus.head(f"{ENDPOINT}/{identity}")
    assert answer.status_code == 404
    assert "upload-offset" not in answer.headers


def test_a_refused_file_has_nothing_to_go_on_with(tus: Tus) -> None:
    answer = tus.client.post("/v1/uploads", files={"file": ("../a.txt", b"hello")})
    upload = answer.json()["results"][0]["upload"]
    head = tus.head(f"{ENDPOINT}/{upload['id']}")
    assert head.status_code == 410
    assert "upload-offset" not in head.headers
