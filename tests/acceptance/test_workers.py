"""`boatload worker`: a process of its own that takes the work over, shares it, loses it and gives it back."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import httpx
import psutil
import pytest

from app.db.embedded import EmbeddedPostgres
from tests.support.embedded import wait_for
from tests.support.postgres import Servers, apart, execute, fetch
from tests.support.server import Boatload, boatload, folder, serving
from tests.support.wire import File, all_uploads, counts, finished, send
from tests.support.workers import Worker, workers_of

FILES: Final = [File(f"{number}", b"x" * number) for number in range(5)]
LISTENING: Final = "SELECT FROM pg_stat_activity WHERE application_name = 'boatload-worker'"
on_18 = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)


@pytest.fixture(scope="module")
def idle_server(postgres_servers: Servers) -> Iterator[Boatload]:
    """A server that processes nothing, on a database of PostgreSQL 18."""
    with serving(database_url=postgres_servers.get("18").create_migrated(), worker=False) as server:
        yield server


@pytest.fixture
def client(idle_server: Boatload) -> Iterator[httpx.Client]:
    with idle_server.client() as opened:
        yield opened


def seconds_until(condition: Callable[[], object], within_seconds: float = 30) -> float:
    began = time.monotonic()
    wait_for(condition, within_seconds)
    return time.monotonic() - began


def helper_of(worker: Worker, client: httpx.Client) -> psutil.Process:
    """The process that looks into files, made to start."""
    finished(client, send(client, "/v1/uploads", FILES[0]).json()["url"])
    [helper] = worker.helpers()
    return helper


def in_hand(worker: Worker, client: httpx.Client) -> tuple[str, psutil.Process]:
    """A batch that a worker has in hand and will not come to an end with, and the helper that stands still."""
    helper = helper_of(worker, client)
    helper.suspend()
    url: str = send(client, "/v1/uploads", *FILES).json()["url"]
    wait_for(lambda: client.get(url).json()["processing_uploads"] == len(FILES), 20)
    return url, helper


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_worker_takes_over_the_queue_of_a_server_that_does_not_work(
    idle_server: Boatload, client: httpx.Client
) -> None:
    url = send(client, "/v1/uploads", *FILES).json()["url"]
    with workers_of(idle_server) as [worker]:
        assert client.get(url).json()["pending_uploads"] == len(FILES)
        worker.start()
        assert counts(finished(client, url)) == (5, 5, 5, 0)
        assert worker.stop() == 0
        assert "Traceback" not in worker.log_path.read_text()


def test_without_settings_it_works_for_the_server_on_its_data_directory() -> None:
    with serving(worker=False) as server, server.client() as client, workers_of(server) as [worker]:
        worker.start()
        assert counts(finished(client, send(client, "/v1/uploads", *FILES).json()["url"])) == (5, 5, 5, 0)
        assert worker.stop(signal.SIGINT) == 0
        assert client.get("/readyz").status_code == 200


def test_two_workers_share_the_work(idle_server: Boatload, client: httpx.Client) -> None:
    files = [File(f"{number}", b"x") for number in range(1000)]
    with workers_of(idle_server, 2) as workers:
        for worker in workers:
            worker.start()
        batch = client.post("/v1/batches").json()
        for _ in range(6):
            assert send(client, f"{batch['url']}/uploads", *files).status_code == 201
        client.post(f"{batch['url']}/seal")
        assert counts(finished(client, batch["url"], seconds=60)) == (6000, 6000, 6000, 0)
        shares = [sum(line["uploads"] for line in worker.said("claimed")) for worker in workers]
        assert sum(shares) == 6000
        assert min(shares) >= 500
        assert {upload["attempts"] for upload in all_uploads(client, batch["url"])} == {1}


def test_what_a_killed_worker_held_is_taken_over_within_fifteen_seconds(
    idle_server: Boatload, client: httpx.Client
) -> None:
    """With the settings that everybody has."""
    with workers_of(idle_server, 2) as [first, second]:
        first.start()
        url, _ = in_hand(first, client)
        second.start()
        first.kill()
        began = time.monotonic()
        assert counts(finished(client, url)) == (5, 5, 5, 0)
        assert time.monotonic() - began <= 15
        uploads = all_uploads(client, url)
        assert {upload["attempts"] for upload in uploads} == {2}
        history = client.get(f"/v1/uploads/{uploads[0]['id']}/attempts").json()["items"]
        assert [(one["attempt"], one["error"]["type"]) for one in history] == [(1, "/problems/worker-lost")]


def test_a_worker_that_is_told_to_stop_gives_back_what_does_not_end(
    idle_server: Boatload, client: httpx.Client
) -> None:
    with workers_of(idle_server, 2, shutdown_seconds=1, lease_seconds=60) as [first, second]:
        first.start()
        url, helper = in_hand(first, client)
        began = time.monotonic()
        assert first.stop() == 0
        assert time.monotonic() - began < 5
        assert gone(helper)
        assert client.get(url).json()["pending_uploads"] == len(FILES)
        second.start()
        assert counts(finished(client, url)) == (5, 5, 5, 0)
        assert "Traceback" not in first.log_path.read_text()


def test_a_cancel_ends_the_work_within_a_lease_and_counts_exactly(idle_server: Boatload, client: httpx.Client) -> None:
    with workers_of(idle_server, lease_seconds=3) as [worker]:
        worker.start()
        url, helper = in_hand(worker, client)
        cancelled = client.post(f"{url}/cancel").json()
        assert (cancelled["status"], cancelled["cancelled_uploads"]) == ("cancelled", len(FILES))
        uploads = all_uploads(client, url)
        assert seconds_until(lambda: gone(helper)) <= 3
        wait_for(lambda: worker.said("given up, no longer ours"), 10)
        finished(client, send(client, "/v1/uploads", *FILES).json()["url"])
        assert client.get(url).json() == cancelled
        assert all_uploads(client, url) == uploads
        retried = client.post(f"{url}/retry")
        assert (retried.status_code, retried.json()["type"]) == (409, "/problems/batch-closed")


@on_18
def test_an_old_schema_is_refused_with_the_sentence_of_serve(empty_database_url: str, tmp_path: Path) -> None:
    said = []
    for command in ("serve", "worker"):
        result = boatload(command, database_url=empty_database_url, data_dir=tmp_path / "data", port=0)
        assert result.returncode == 1
        said.append(result.stderr.splitlines()[-1])
    assert said[0] == said[1]
    assert "boatload migrate up" in said[0]


def test_without_a_server_on_its_data_directory_it_says_so() -> None:
    with folder() as place:
        result = boatload("worker", data_dir=place / "data")
        assert result.returncode == 1
        assert result.stderr.startswith("boatload: no Boatload runs on the data directory")
        assert not (place / "data").exists()


def test_a_restart_of_the_database_is_survived_and_heard_of_within_five_seconds() -> None:
    with folder() as place:
        postgres = EmbeddedPostgres(place)
        url = apart(postgres.start)
        try:
            assert boatload("migrate", "up", database_url=url).returncode == 0
            with serving(database_url=url, worker=False) as server, workers_of(server) as [worker]:
                worker.start()
                for _ in range(2):
                    apart(postgres.stop)
                    wait_for(lambda: worker.said("queue lost, will connect again"), 10)
                    apart(postgres.start)
                    assert seconds_until(lambda: fetch(url, LISTENING), 10) <= 5
                    with server.client() as client:
                        wait_for(lambda: client.get("/readyz").status_code == 200, 20)
                        batch_url = send(client, "/v1/uploads", *FILES).json()["url"]
                        began = time.monotonic()
                        assert counts(finished(client, batch_url)) == (5, 5, 5, 0)
                        assert time.monotonic() - began < 5
                execute(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
                assert seconds_until(lambda: fetch(url, LISTENING), 10) <= 5
                assert worker.stop() == 0
        finally:
            apart(postgres.stop)
