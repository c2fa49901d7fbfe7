"""OPTIONS (tus 1.0.0, "OPTIONS"): what the server can, told to whoever asks, in whatever version they speak."""

import httpx
import pytest

from tests.support.tus import ENDPOINT, MAX_FILE_BYTES, Tus
from tests.support.values import UNKNOWN

EXTENSIONS = {
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "checksum",
    "expiration",
    "termination",
    "concatenation",
}


@pytest.mark.parametrize("path", [ENDPOINT, f"{ENDPOINT}/{UNKNOWN}"])
@pytest.mark.parametrize("headers", [{}, {"tus-resumable": "1.0.0"}, {"tus-resumable": "0.2.2"}], ids=str)
def test_it_says_what_it_can(client: httpx.Client, path: str, headers: dict[str, str]) -> None:
    answer = client.options(path, headers=headers)
    assert answer.status_code == 204
    assert answer.content == b""
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert answer.headers["tus-version"] == "1.0.0"
    assert set(answer.headers["tus-extension"].split(",")) == EXTENSIONS
    assert set(answer.headers["tus-checksum-algorithm"].split(",")) == {"sha1", "sha256", "crc32"}


def test_its_largest_size_is_that_of_a_file(small_tus: Tus) -> None:
    assert int(small_tus.client.options(ENDPOINT).headers["tus-max-size"]) == MAX_FILE_BYTES


def test_it_shares_nothing_with_other_origins_unless_told_to(client: httpx.Client) -> None:
    ask = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    assert not [name for name in client.options(ENDPOINT, headers=ask).headers if name.startswith("access-control")]
