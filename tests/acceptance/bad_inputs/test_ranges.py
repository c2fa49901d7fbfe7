"""Ranges that are not there, or more than one."""

import httpx
import pytest

from tests.support.server import Boatload
from tests.support.wire import File, problem, send

DATA = b"0123456789" * 10_000


@pytest.fixture(scope="module")
def content_url(server: Boatload) -> str:
    with server.client() as client:
        url: str = send(client, "/v1/uploads", File("a", DATA)).json()["results"][0]["upload"]["content_url"]
    return url


@pytest.mark.parametrize("asked", ["bytes=100000-", "bytes=100000-100001", "bytes=-0", f"bytes={10**17}-"])
def test_a_range_past_the_end(client: httpx.Client, content_url: str, asked: str) -> None:
    answer = client.get(content_url, headers={"range": asked})
    assert problem(answer, 416, "range-not-satisfiable")["size_bytes"] == len(DATA)
    assert answer.headers["content-range"] == f"bytes */{len(DATA)}"


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-1,3-4",
        "bytes=" + ",".join(f"{n}-{n}" for n in range(500)),
        "bytes=" + ",".join(["0-"] * 500),
        "bytes=5-2",
        "bytes=-",
        "lines=0-1",
        "bytes=a-b",
        f"bytes=0-{10**30}",
    ],
    ids=lambda asked: asked[:20],
)
def test_many_ranges_or_a_reversed_one(client: httpx.Client, content_url: str, asked: str) -> None:
    """The whole file is the answer, once."""
    answer = client.get(content_url, headers={"range": asked})
    assert (answer.status_code, answer.content) == (200, DATA)


def test_a_range_of_head(client: httpx.Client, content_url: str) -> None:
    answer = client.head(content_url, headers={"range": "bytes=0-9"})
    assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(DATA)))
