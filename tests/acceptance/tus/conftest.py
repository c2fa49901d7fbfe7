"""A tus client for each test of the suite."""

from collections.abc import Iterator

import httpx
import pytest

from tests.support.server import Boatload
from tests.support.tus import Tus


@pytest.fixture
def tus(client: httpx.Client) -> Tus:
    return Tus(client)


@pytest.fixture
def nothing_new(client: httpx.Client) -> Iterator[None]:
    """No batch comes of what the test does."""
    before = newest(client)
    yield
    assert newest(client) == before


def newest(client: httpx.Client) -> list[str]:
    return [batch["id"] for batch in client.get("/v1/batches?limit=1").json()["items"]]


@pytest.fixture
def small_tus(behind_proxy: Boatload) -> Iterator[Tus]:
    with behind_proxy.client() as opened:
        yield Tus(opened)
