"""The commands as an operator types them: what they do, what they refuse, and how the server ends."""

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.catalog import REVISIONS
from tests.support.postgres import Servers, execute
from tests.support.server import ROOT, Boatload, boatload, folder, serving
from tests.support.wire import File, connection, finished, problem, read_answer, request_head, send

on_18 = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)


@pytest.fixture
def place() -> Iterator[Path]:
    with folder() as path:
        yield path


def is_sentence(text: str) -> bool:
    """One line under our name, and no traceback."""
    return text.startswith("boatload: ") and text.count("\n") == 1


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that nobody has buried yet does not."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def last_line(text: str) -> str:
    return text.splitlines(keepends=True)[-1]


@pytest.mark.parametrize("host", ["0.0.0.0", "example.org"])
def test_serving_strangers_without_credentials_is_refused(place: Path, host: str) -> None:
    result = boatload("serve", "--host", host, data_dir=place / "data", log_level="error")
    assert result.returncode == 1
    assert is_sentence(result.stderr), result.stderr
    for word in (host, "boatload keys create", "BOATLOAD_ALLOW_ANONYMOUS"):
        assert word in result.stderr


@on_18
@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_store_that_cannot_be_used_is_said_in_one_sentence(database_url: str, command: str) -> None:
    result = boatload(command, port=0, database_url=database_url, storage_url="file:///proc/nowhere", log_format="json")
    assert result.returncode == 1
    assert is_sentence(last_line(result.stderr)), result.stderr
    assert "Traceback" not in result.stderr
    assert '"storage failed"' in result.stderr
    assert "/proc/nowhere" in result.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        {"no_such_thing": ""},
        {
            "port": 65536,
            "database_url": "mysql://x",
            "storage_url": "file://relative",
            "worker": "perhaps",
            "lease_seconds": "nan",
            "sweep_interval_seconds": "inf",
            "max_parts": 0,
            "max_file_bytes": "1.5",
            "postgres_version": 17,
            "log_level": "loud",
            "pack_file_bytes": 1 << 21,
        },
    ],
)
def test_settings_that_are_unknown_or_wrong_are_refused_by_name(place: Path, wrong: dict[str, object]) -> None:
    result = boatload("serve", **{"data_dir": place / "data", "port": 0} | wrong, seconds=20)
    assert result.returncode == 1
    assert is_sentence(result.stderr), result.stderr
    for name in wrong:
        assert f"BOATLOAD_{name.upper()}" in result.stderr
    assert not (place / "data").exists()


@on_18
def test_an_external_database_is_migrated_by_command_and_served_only_then(empty_database_url: str, place: Path) -> None:
    def migrate(*arguments: str, code: int = 0) -> list[str]:
        result = boatload("migrate", *arguments, database_url=empty_database_url)
        assert result.returncode == code, result.stderr
        return result.stdout.splitlines()

    assert migrate("up", "add_batch_support") == [f"applied {name}" for name in REVISIONS[:2]]

    refused = boatload("serve", database_url=empty_database_url, data_dir=place, port=0)
    assert refused.returncode == 1
    assert is_sentence(last_line(refused.stderr)), refused.stderr
    assert "boatload migrate up" in refused.stderr
    assert "batch_account" in refused.stderr
    states = ["applied", "applied", *["pending"] * (len(REVISIONS) - 2)]
    status = [line.split()[:2] for line in migrate("status", code=1)]
    assert status == [list(pair) for pair in zip(states, REVISIONS, strict=True)]  # it changed nothing

    assert migrate("up") == [f"applied {name}" for name in REVISIONS[2:]]
    assert migrate("down", "base") == [f"undone {name}" for name in REVISIONS[::-1]]


def test_serving_a_database_that_nobody_answers_for_is_refused_with_a_sentence(place: Path) -> None:
    result = boatload("serve", database_url="postgresql://x@127.0.0.1:1/x", data_dir=place, port=0)
    assert result.returncode == 1
    assert is_sentence(last_line(result.stderr)), result.stderr


def test_serving_on_a_port_that_is_taken_is_refused_with_a_sentence(server: Boatload, place: Path) -> None:
    url = server.settings["database_url"]
    result = boatload("serve", database_url=url, data_dir=place, port=server.port)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert str(server.port) in result.stderr


def test_a_migration_to_nowhere_is_refused_with_a_sentence(server: Boatload) -> None:
    result = boatload("migrate", "up", "nowhere", database_url=server.settings["database_url"])
    assert result.returncode == 1
    assert is_sentence(result.stderr), result.stderr
    assert all(name in result.stderr for name in REVISIONS)


@on_18
def test_the_sql_of_the_migrations_makes_the_schema_that_serve_accepts(empty_database_url: str) -> None:
    printed = boatload("migrate", "sql")
    assert printed.returncode == 0, printed.stderr
    for word in ("upload_batches", "idx_upload_batches_user_id", "idx_uploads_batch_id", "ON DELETE SET NULL"):
        assert word in printed.stdout
    execute(empty_database_url, printed.stdout)
    with serving(database_url=empty_database_url) as server, server.client() as client:
        answer = send(client, "/v1/uploads", File("a", b"x"))
        assert finished(client, answer.json()["url"])["status"] == "completed"


def test_the_sql_of_one_revision_can_be_printed() -> None:
    printed = boatload("migrate", "sql", "down", "add_batch_support")
    assert printed.returncode == 0, printed.stderr
    assert "DROP COLUMN" in printed.stdout.upper()


def test_openapi_prints_the_document_of_the_repository() -> None:
    result = boatload("openapi")
    assert result.returncode == 0, result.stderr
    assert result.stdout == (ROOT / "openapi.json").read_text()


def test_the_server_and_its_database_start_and_end_with_one_command() -> None:
    """On one data directory, one after the other, by each signal that an operator sends."""
    with serving() as server:
        url = ""
        for number in (signal.SIGTERM, signal.SIGINT):
            if server.process and server.process.returncode is not None:
                server.start()
            with server.client() as client:
                if url:
                    assert client.get(url).json()["status"] == "completed"
                url = send(client, "/v1/uploads", File("a", b"x")).json()["url"]
                finished(client, url)
            postmaster = server.postmaster()
            assert postmaster is not None
            family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
            assert postmaster in family
            started = time.monotonic()
            code = server.stop(number, seconds=15)
            assert code in {0, -number, 128 + number}
            assert time.monotonic() - started < 10
            assert not [process for process in family if is_alive(process)]
            assert server.postmaster() is None
            assert "Traceback" not in server.log


async def test_open_requests_are_ended_when_the_server_is_told_to_stop(postgres_servers: Servers) -> None:
    """One that never comes to its end does not keep the server for longer than `shutdown_seconds`."""
    url = postgres_servers.get("18").create_migrated()
    with serving(database_url=url, shutdown_seconds=1) as server:
        async with connection(server.port) as (reader, writer):
            head = request_head(
                "POST", "/v1/uploads", Content_Type="multipart/form-data; boundary=x", Content_Length=99
            )
            writer.write(head + b"--x\r\n")
            await writer.drain()
            started = time.monotonic()
            await asyncio.to_thread(server.stop, seconds=15)
            assert time.monotonic() - started < 10
            problem(await asyncio.wait_for(read_answer(reader), 10), 503, "stopping")
        assert "Traceback" not in server.log


def test_two_servers_do_not_share_a_data_directory() -> None:
    with serving() as server, server.client() as client:
        result = boatload("serve", data_dir=server.data_dir, port=0)
        assert result.returncode == 1
        assert is_sentence(last_line(result.stderr)), result.stderr
        assert str(server.data_dir) in result.stderr
        assert client.get("/readyz").status_code == 200
        status = boatload("migrate", "status", data_dir=server.data_dir)
        assert status.returncode == 0, status.stderr  # it asks the database of the server that runs
        assert [line.split()[0] for line in status.stdout.splitlines()] == ["applied"] * len(REVISIONS)
        assert client.get("/readyz").status_code == 200
