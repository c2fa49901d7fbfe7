"""Upload-Checksum (tus 1.0.0, "Checksum"): a piece that is not what was sent is not kept."""

import os

import pytest

from tests.support.tus import Tus, checksum, refused

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


def test_the_checksum_is_of_the_piece_and_not_of_the_file(tus: Tus) -> None:
    url = tus.create(10)
    tus.patch(url, 0, b"hello")
    answer = tus.patch(url, 5, b"world", upload_checksum=checksum("sha1", b"helloworld"))
    refused(answer, 460, "checksum-mismatch")
    assert tus.offset(url) == 5
