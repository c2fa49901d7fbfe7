"""The database goes away, the store is full: documented answers, nothing half-done, and it mends by itself."""

import hashlib
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from app.db import migrate
from app.db.embedded import EmbeddedPostgres
from tests.support.census import unchanged
from tests.support.missing import lacking
from tests.support.postgres import Servers, apart, fetch
from tests.support.server import Boatload, folder, serving
from tests.support.tus import Tus
from tests.support.wire import File, all_uploads, counts, finished, problem, send

SMALL = File("small", b"small")
MIB = 1024 * 1024
LEFT_TO_THE_SWEEPER = ["file bytes", "files without a row", "objects", "object bytes"]
big = random.Random(3).randbytes


@pytest.fixture
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of our own, to stop and start at will."""
    with folder() as path:
        database = EmbeddedPostgres(path)
        apart(lambda: migrate.upgrade(database.start()))
        yield database
        database.stop()


def test_database_down(postgres: EmbeddedPostgres) -> None:
    """Every route says so, nothing comes of what was asked, and it mends by itself."""
    with serving(database_url=postgres.dsn, lease_seconds=2) as server, server.client() as client:
        tus = Tus(client)
        before = send(client, "/v1/uploads", SMALL).json()
        url, upload = before["url"], before["results"][0]["upload"]
        open_url = client.post("/v1/batches").headers["location"]
        finished(client, url)
        begun = tus.create(10)
        tus.patch(begun, 0, b"hello")
        with unchanged(server, besides=LEFT_TO_THE_SWEEPER):
            postgres.stop()
            asked: list[Callable[[], httpx.Response]] = [
                lambda: client.get(url),
                lambda: client.get("/v1/batches"),
                lambda: client.get(upload["content_url"]),
                lambda: client.post("/v1/batches"),
                lambda: client.post(f"{open_url}/seal"),
                lambda: client.delete(f"/v1/uploads/{upload['id']}"),
                lambda: send(client, f"{open_url}/uploads", SMALL),
                lambda: send(client, "/v1/uploads", SMALL, File("big", bytes(2 * MIB))),
                lambda: client.put(f"{open_url}/files/a", content=b"x"),
                lambda: client.put(f"{open_url}/files/a", content=bytes(2 * MIB)),
                lambda: client.post(f"{open_url}/manifest", json={"entries": []}),
                lambda: tus.post(upload_length=1),
                lambda: tus.patch(begun, 5, b"world"),
                lambda: client.get("/readyz"),
            ]
            for _ in range(2):
                for ask in asked:
                    started = time.monotonic()
                    answer = ask()
                    problem(answer, 503, "database-unavailable")
                    assert int(answer.headers["retry-after"]) >= 1
                    assert time.monotonic() - started < 15
            assert client.get("/healthz").status_code == 200

            postgres.start()
            deadline = time.monotonic() + 20
            while client.get("/readyz").status_code != 200:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert client.get(upload["content_url"]).content == SMALL.data
        assert tus.patch(begun, 5, b"world").status_code == 204
        after = send(client, "/v1/uploads", SMALL, SMALL)
        assert after.status_code == 201
        assert counts(finished(client, after.json()["url"])) == (2, 2, 2, 0)  # the worker is back as well
        assert server.process is not None
        assert server.process.poll() is None


def test_an_embedded_database_that_dies() -> None:
    with serving(lease_seconds=2) as server, server.client() as client:
        kept = send(client, "/v1/uploads", SMALL).json()
        postmaster = server.postmaster()
        assert postmaster is not None
        postmaster.send_signal(signal.SIGKILL)
        seen = set()
        deadline = time.monotonic() + 30
        while (answer := send(client, "/v1/uploads", SMALL)).status_code != 201 or server.postmaster() is None:
            seen.add(answer.status_code)
            assert time.monotonic() < deadline
        assert seen <= {503, 201}
        assert counts(finished(client, answer.json()["url"])) == (1, 1, 1, 0)
        assert counts(finished(client, kept["url"])) == (1, 1, 1, 0)
        assert client.get(kept["results"][0]["upload"]["content_url"]).content == SMALL.data


def fresh(size: int) -> File:
    """A file of bytes that were never sent before: what is stored already takes no room."""
    return File("file", os.urandom(size))


def sent_until_refused(client: httpx.Client, url: str, size: int) -> list[str]:
    """Send file after file into the batch until the store is full; return the digests of those that were taken."""
    taken: list[str] = []
    while len(taken) < 1000:
        file = fresh(size)
        answer = send(client, f"{url}/uploads", file)
        if answer.status_code != 201:
            problem(answer, 507, "storage-full")
            return taken
        taken.append(file.sha256)
    pytest.fail("the store never became full")


def check_account(server: Boatload, client: httpx.Client, url: str, taken: list[str], *, deleted: bool = False) -> None:
    """The batch holds what was taken, every byte of it, and nothing else."""
    uploads = all_uploads(client, url)
    assert client.get(url).json()["total_uploads"] == len(uploads) == len(taken)
    assert [upload["sha256"] for upload in uploads] == taken
    for upload in uploads:
        assert hashlib.sha256(client.get(upload["content_url"]).content).hexdigest() == upload["sha256"]
    unused = "SELECT id FROM objects o WHERE NOT EXISTS (SELECT FROM uploads u WHERE u.object_id = o.id)"
    assert deleted or fetch(str(server.settings["database_url"]), unused) == []


@pytest.fixture
def tiny_disk() -> Iterator[Path]:
    """A file system of 24 MiB."""
    if os.geteuid() != 0:
        lacking("only root mounts")
    with folder() as path:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", path], capture_output=True, check=False
        )
        if mounted.returncode:
            lacking(f"mounting is not allowed here: {mounted.stderr.decode()}")
        try:
            yield path
        finally:
            subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.parametrize("size", [700_000, 3 * MIB])
def test_disk_full(postgres_servers: Servers, tiny_disk: Path, size: int) -> None:
    """What is there can be read and deleted, and more is taken when there is room.

    Small files go into packs, big ones into objects of their own; a full disk meets both.
    """
    database_url = postgres_servers.get("18").create_migrated()
    with (
        serving(database_url=database_url, storage_url=f"file://{tiny_disk}/o", sweep_interval_seconds=1) as server,
        server.client() as client,
    ):
        ballast = tiny_disk / "ballast"
        ballast.write_bytes(bytes(8 * MIB))
        url = client.post("/v1/batches").headers["location"]
        taken = sent_until_refused(client, url, size)
        assert len(taken) >= 3
        check_account(server, client, url, taken)
        tus = Tus(client)
        begun = tus.create(size)
        with unchanged(server, besides=LEFT_TO_THE_SWEEPER):
            for answer in (
                send(client, "/v1/uploads", fresh(size), fresh(size)),  # leaves no batch
                client.put(f"{url}/files/a", content=fresh(size).data),
                tus.patch(begun, 0, fresh(size).data),
            ):
                problem(answer, 507, "storage-full")
        assert client.delete(f"/v1/uploads/{all_uploads(client, url)[0]['id']}").status_code == 204
        del taken[0]
        check_account(server, client, url, taken, deleted=True)

        ballast.unlink()
        file = fresh(size)
        answer = send(client, f"{url}/uploads", file)
        assert answer.status_code == 201, answer.text
        taken.append(file.sha256)
        check_account(server, client, url, taken, deleted=True)
        client.post(f"{url}/seal")
        assert counts(finished(client, url)) == (len(taken), len(taken), len(taken), 0)
        wait_for_sweep(server, tiny_disk / "o")


def wait_for_sweep(server: Boatload, objects: Path) -> None:
    """What was written in vain goes away by itself: as many files are left as there are objects."""
    deadline = time.monotonic() + 20
    database_url = str(server.settings["database_url"])
    while True:
        files = {path.name for path in objects.glob("*/*")}
        rows = {str(row["id"]) for row in fetch(database_url, "SELECT id FROM objects")}
        if files == rows:
            return
        assert rows <= files
        assert time.monotonic() < deadline, f"left behind: {files - rows}"
        time.sleep(0.2)


@pytest.mark.parametrize("size", [300_000, 5 * MIB])
def test_a_write_that_the_system_refuses(postgres_servers: Servers, size: int) -> None:
    with (
        serving(database_url=postgres_servers.get("18").create_migrated()) as server,
        server.client() as client,
    ):
        url = client.post("/v1/batches").headers["location"]
        assert send(client, f"{url}/uploads", fresh(size)).status_code == 201
        process = psutil.Process(server.pid)
        before = process.rlimit(resource.RLIMIT_FSIZE)
        process.rlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
        for _ in range(3):
            problem(send(client, f"{url}/uploads", fresh(size)), 507, "storage-full")
        assert send(client, f"{url}/uploads", SMALL).status_code == 201  # in a pack that has room
        process.rlimit(resource.RLIMIT_FSIZE, before)
        assert send(client, f"{url}/uploads", fresh(size)).status_code == 201
        uploads = all_uploads(client, url)
        assert [upload["size_bytes"] for upload in uploads] == [size, len(SMALL.data), size]
        for upload in uploads:
            assert hashlib.sha256(client.get(upload["content_url"]).content).hexdigest() == upload["sha256"]


def test_disk_full_within_a_request(postgres_servers: Servers) -> None:
    with (
        serving(database_url=postgres_servers.get("18").create_migrated()) as server,
        server.client() as client,
    ):
        process = psutil.Process(server.pid)
        process.rlimit(resource.RLIMIT_FSIZE, (3 * MIB, process.rlimit(resource.RLIMIT_FSIZE)[1]))
        answer = send(client, "/v1/uploads", File("a", big(2 * MIB)), File("b", big(2 * MIB)), File("c", big(4 * MIB)))
        body = problem(answer, 507, "storage-full")
        assert [result["filename"] for result in body["results"]] == ["a", "b"]
        for result in body["results"]:
            content = client.get(result["upload"]["content_url"]).content
            assert hashlib.sha256(content).hexdigest() == result["upload"]["sha256"]
        assert client.get(body["url"]).json()["total_uploads"] == 2


def test_store_down(postgres_servers: Servers) -> None:
    with (
        serving(database_url=postgres_servers.get("18").create_migrated()) as server,
        server.client() as client,
    ):
        body = send(client, "/v1/uploads", File("big", big(2 * MIB))).json()
        finished(client, body["url"])
        content_url = body["results"][0]["upload"]["content_url"]
        url = client.post("/v1/batches").headers["location"]
        gone = client.put(f"{url}/files/gone", content=bytes(2 * MIB)).json()
        tus = Tus(client)
        begun = tus.create(10)
        with unchanged(server):
            aside = server.objects.rename(server.data_dir / "aside")
            for answer in (
                client.get(content_url),
                send(client, "/v1/uploads", SMALL),
                send(client, "/v1/uploads", File("big", big(2 * MIB))),
                client.put(f"{url}/files/a", content=b"new"),
                client.put(f"{url}/files/a", content=big(2 * MIB)),
                tus.patch(begun, 0, b"hello"),
            ):
                problem(answer, 503, "storage-unavailable")
                assert int(answer.headers["retry-after"]) >= 1
            assert client.get(body["url"]).status_code == 200
            aside.rename(server.objects)
        server.objects.rename(aside)
        assert client.delete(f"/v1/uploads/{gone['id']}").status_code == 204
        aside.rename(server.objects)
        assert tus.patch(begun, 0, b"helloworld").status_code == 204
        assert len(client.get(content_url).content) == 2 * MIB
        assert send(client, "/v1/uploads", SMALL).status_code == 201
