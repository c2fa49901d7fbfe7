"""Workers that die with uploads in their hands: the next one finishes them."""

import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
import psutil
import pytest

from tests.support.server import Boatload, serving
from tests.support.wire import File, Json, all_uploads, counts, finished, send

FILES = [File(f"{number}", b"x" * number) for number in range(5)]


@pytest.fixture(scope="module")
def own_server() -> Iterator[Boatload]:
    with serving(lease_seconds=2, processor_processes=1) as server:
        yield server


def helper_of(server: Boatload) -> psutil.Process:
    """The process that looks into files; made to start where it does not run."""
    with server.client() as client:
        finished(client, send(client, "/v1/uploads", FILES[0]).json()["url"])
    postmaster = server.postmaster()
    [helper] = [child for child in psutil.Process(server.pid).children() if child != postmaster]
    return helper


def in_hand(client: httpx.Client) -> str:
    """The address of a batch whose files are all being worked on, which will not end while the helper stands still."""
    url: str = send(client, "/v1/uploads", *FILES).json()["url"]
    deadline = time.monotonic() + 20
    while (batch := client.get(url).json())["processing_uploads"] < len(FILES):
        assert time.monotonic() < deadline, batch
        time.sleep(0.05)
    return url


def check_done(client: httpx.Client, url: str, *, attempts: set[int]) -> None:
    batch: Json = finished(client, url)
    assert counts(batch) == (len(FILES), len(FILES), len(FILES), 0)
    assert {upload["attempts"] for upload in all_uploads(client, url)} <= attempts


def test_what_a_killed_server_was_working_on_is_finished_by_the_next(own_server: Boatload) -> None:
    helper = helper_of(own_server)
    helper.suspend()
    with own_server.client() as client:
        url = in_hand(client)
    own_server.kill()
    helper.kill()
    own_server.start()
    with own_server.client() as client:
        check_done(client, url, attempts={2})


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_helper_that_dies_costs_time_and_nothing_else(own_server: Boatload, number: signal.Signals) -> None:
    helper = helper_of(own_server)
    helper.suspend()
    with own_server.client() as client:
        url = in_hand(client)
        helper.send_signal(number)
        with suppress(psutil.NoSuchProcess):  # SIGKILL does not wait for that
            helper.resume()
        check_done(client, url, attempts={1, 2})
        assert client.get("/readyz").status_code == 200
