"""Digests that cannot be read, and bytes that are not those of their digest."""

import base64
import hashlib
import os

import httpx
import pytest

from tests.support.bad_inputs import MAX_FILE_BYTES, MIB, opened
from tests.support.census import census, unchanged
from tests.support.server import Boatload
from tests.support.services import pattern
from tests.support.tus import Tus, checksum, encoded, refused
from tests.support.wire import problem

SIZES = [0, 1, 4096, 64 * 1024, 64 * 1024 + 1, MIB, MIB + 1, MAX_FILE_BYTES]
FIELDS = ["Repr-Digest", "Content-Digest"]


def digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


@pytest.mark.parametrize(
    "value", ["sha-256", "sha-256=abc", "sha-256=:abc:", "sha-256=:YWJj:", "sha-256=:****:", "SHA-256=:YWJj:", ",", ""]
)
@pytest.mark.parametrize("field", FIELDS)
def test_a_malformed_digest_header(server: Boatload, client: httpx.Client, field: str, value: str) -> None:
    url = opened(client)
    with unchanged(server):
        problem(client.put(f"{url}/files/x", content=b"x", headers={field: value}), 400, "invalid-digest")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("field", FIELDS)
def test_a_digest_that_does_not_match(server: Boatload, client: httpx.Client, field: str, size: int) -> None:
    url, data = opened(client), pattern(size)
    with unchanged(server):
        answer = client.put(f"{url}/files/x", content=data, headers={field: digest(b"else")})
        problem(answer, 422, "digest-mismatch")
    assert client.put(f"{url}/files/x", content=data, headers={field: digest(data)}).status_code == 201


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
def test_a_malformed_checksum_of_tus(server: Boatload, tus: Tus, value: str) -> None:
    url = tus.create(5)
    with unchanged(server):
        refused(tus.patch(url, 0, b"hello", upload_checksum=value), 400, "invalid-header")
        assert tus.offset(url) == 0


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "crc32"])
@pytest.mark.parametrize("size", [5, 200_000, 2 * MIB])
def test_a_checksum_of_tus_that_does_not_match(server: Boatload, tus: Tus, algorithm: str, size: int) -> None:
    """Bytes behind the offset are nobody's; whatever is written next takes their place in the store."""
    data = os.urandom(size)
    url = tus.create(5 + size)
    tus.patch(url, 0, b"hello")
    before = census(server)["file bytes"]
    with unchanged(server, besides=["file bytes"]):
        wrong = checksum(algorithm, data[:-1] + bytes([data[-1] ^ 1]))
        refused(tus.patch(url, 5, data, upload_checksum=wrong), 460, "checksum-mismatch")
        assert tus.offset(url) == 5
    assert tus.patch(url, 5, data, upload_checksum=checksum(algorithm, data)).status_code == 204
    assert tus.content(url) == b"hello" + data
    assert census(server)["file bytes"] == before + size


def test_a_checksum_of_tus_that_does_not_match_what_comes_with_the_creation(server: Boatload, tus: Tus) -> None:
    with unchanged(server):
        answer = tus.post(b"hello", upload_length=10, upload_checksum=checksum("sha1", b"hallo"))
        refused(answer, 460, "checksum-mismatch")
