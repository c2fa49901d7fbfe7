"""Upload-Checksum (tus 1.0.0, "Checksum"): a piece that is not what was sent is not kept."""

import os

import pytest

from tests.support.tus import Tus, checksum, encoded, refused

ALGORITHMS = ["sha1", "sha256", "crc32"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
def test_pieces_that_match_are_kept(tus: Tus, algorithm: str, *, chunked: bool) -> None:
    data = os.urandom(200_000)
    url = tus.create(len(data))
    for start in (0, 100_000):
        piece = data[start : start + 100_000]
        content = iter([piece[:10], piece[10:]]) if chunked else piece
        answer = tus.patch(url, start, content, upload_checksum=checksum(algorithm, piece))
        assert answer.status_code == 204, answer.text
        assert answer.headers["upload-offset"] == str(start + 100_000)
    assert tus.content(url) == data


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", [5, 200_000, 9 << 20])
def test_a_piece_that_does_not_match_answers_460_and_is_not_kept(tus: Tus, algorithm: str, size: int) -> None:
    first, second = b"hello", os.urandom(size)
    url = tus.create(len(first) + size)
    tus.patch(url, 0, first)
    wrong = checksum(algorithm, second[:-1] + bytes([second[-1] ^ 1]))
    refused(tus.patch(url, 5, second, upload_checksum=wrong), 460, "checksum-mismatch")
    assert tus.offset(url) == 5
    assert tus.upload(url)["status"] == "receiving"
    assert tus.patch(url, 5, second, upload_checksum=checksum(algorithm, second)).status_code == 204
    assert tus.content(url) == first + second


def test_the_checksum_is_of_the_piece_and_not_of_the_file(tus: Tus) -> None:
    url = tus.create(10)
    tus.patch(url, 0, b"hello")
    answer = tus.patch(url, 5, b"world", upload_checksum=checksum("sha1", b"helloworld"))
    refused(answer, 460, "checksum-mismatch")
    assert tus.offset(url) == 5


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sha1",
        "sha1 !!!",
        f"sha1 {encoded(b'short')}",
        f"sha1{encoded(bytes(20))}",
        f"SHA1 {encoded(bytes(20))}",
        f"md5 {encoded(bytes(16))}",
        f"sha256 {encoded(bytes(20))}",
        f"sha512 {encoded(bytes(64))}",
        f"crc32 {encoded(bytes(5))}",
        f"sha1 {encoded(bytes(20))} more",
    ],
)
def test_a_checksum_that_is_none_answers_400(tus: Tus, value: str) -> None:
    url = tus.create(5)
    refused(tus.patch(url, 0, b"hello", upload_checksum=value), 400, "invalid-header")
    assert tus.offset(url) == 0
