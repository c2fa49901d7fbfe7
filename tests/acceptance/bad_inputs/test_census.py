"""What the tests of this folder rely on: a census sees whatever is left behind."""

from collections.abc import Callable
from uuid import uuid4

import httpx
import pytest

from tests.support import census
from tests.support.census import store_of, unchanged
from tests.support.postgres import execute
from tests.support.server import Boatload
from tests.support.tus import Tus
from tests.support.wire import File, finished, send

LEAVINGS: dict[str, Callable[[httpx.Client], object]] = {
    "batches": lambda client: client.post("/v1/batches"),
    "receiving": lambda client: Tus(client).create(5, upload_concat="partial"),
    "failed": lambda client: send(client, "/v1/uploads", File("..", b"x")),
    "completed": lambda client: finished(client, send(client, "/v1/uploads", File("a", b"x")).json()["url"]),
    "received bytes": lambda client: Tus(client).post(b"x", upload_length=5, upload_concat="partial"),
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "SETTLE_SECONDS", 0.3)


@pytest.mark.parametrize("kind", LEAVINGS)
def test_a_row_that_is_left_behind_is_seen(server: Boatload, client: httpx.Client, kind: str) -> None:
    with pytest.raises(AssertionError, match=f"'{kind}'"), unchanged(server):
        LEAVINGS[kind](client)


def test_a_file_that_is_left_behind_is_seen(server: Boatload) -> None:
    name = str(uuid4())
    stray = store_of(server) / name[-2:] / name
    try:
        with pytest.raises(AssertionError, match="'files without a row'"), unchanged(server):
            stray.write_bytes(b"x")
    finally:
        stray.unlink()


def test_counters_that_are_not_those_of_the_rows_are_seen(server: Boatload, client: httpx.Client) -> None:
    batch = client.post("/v1/batches").json()["id"]
    database = str(server.settings["database_url"])
    counter = f"UPDATE upload_batches SET received_bytes = {{}} WHERE id = '{batch}'"
    try:
        with pytest.raises(AssertionError, match="'counted wrong'"), unchanged(server):
            execute(database, counter.format(1))
    finally:
        execute(database, counter.format(0))


def test_what_was_to_be_more_and_is_not_is_seen(server: Boatload) -> None:
    with pytest.raises(AssertionError, match="'failed'"), unchanged(server, failed=1):
        pass
