"""The ordinary life of the embedded PostgreSQL, alone and beside other processes."""

import asyncio
import os
import signal
from pathlib import Path

import asyncpg
import psutil
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from app.db.embedded import EmbeddedError, EmbeddedPostgres, attach
from tests.support.embedded import (
    Owners,
    ask,
    both_versions,
    mode_of,
    read,
    read_until,
    servers,
    write,
)


@both_versions
def test_fresh_start_serves_its_database_and_keeps_it_over_a_stop(data_dir: Path, version: str) -> None:
    with EmbeddedPostgres(data_dir, version) as postgres:
        assert int(ask(postgres.dsn, "SHOW server_version_num")) // 10_000 == int(version)
        assert ask(postgres.dsn, "SELECT current_user || '@' || current_database()") == "boatload@boatload"
        write(postgres.dsn)
    assert servers(data_dir) == []
    with EmbeddedPostgres(data_dir, version) as postgres:
        assert read(postgres.dsn) == 42


def test_server_is_durable_private_and_in_utf8(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        wanted = {
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "data_checksums": "on",
            "listen_addresses": "",
            "server_encoding": "UTF8",
            "TimeZone": "UTC",
        }
        assert {name: ask(postgres.dsn, f"SHOW {name}") for name in wanted} == wanted
        assert ask(postgres.dsn, "SELECT lower('ÄÖ') || (CASE WHEN 'Z' < 'a' THEN '<' END)") == "äö<"
        assert mode_of(data_dir / "postgres") == 0o700
        assert mode_of(data_dir / "run") == 0o700
        assert (data_dir / "postgres").stat().st_uid == (data_dir / "run").stat().st_uid != 0


def test_an_existing_database_keeps_its_version(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, "16"):
        pass
    with EmbeddedPostgres(data_dir, "18") as postgres:
        assert ask(postgres.dsn, "SHOW server_version_num").startswith("16")


def test_one_instance_starts_again_after_a_stop(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    postgres.stop()
    try:
        assert postgres.start() == postgres.dsn
        write(postgres.dsn)
        postgres.stop()
        postgres.stop()
        postgres.start()
        assert read(postgres.dsn) == 42
    finally:
        postgres.stop()


async def test_starts_where_an_event_loop_runs(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        assert attach(data_dir) == postgres.dsn
        connection = await asyncpg.connect(postgres.dsn)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()


def test_path_with_odd_characters_serves_asyncpg_and_sqlalchemy(base: Path) -> None:
    with EmbeddedPostgres(base / "a b:c%d'é@?") as postgres:
        assert ask(postgres.dsn, "SELECT 1") == 1
        assert asyncio.run(ask_by_sqlalchemy(postgres.dsn)) == "boatload"


async def ask_by_sqlalchemy(dsn: str) -> object:
    engine = create_async_engine(make_url(dsn).set(drivername="postgresql+asyncpg"))
    try:
        async with engine.connect() as connection:
            return await connection.scalar(text("SELECT current_database()"))
    finally:
        await engine.dispose()


def test_variables_of_another_server_are_not_inherited(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGPORT", "PGDATA", "PGHOST", "PGUSER", "PGDATABASE", "PGOPTIONS", "TZ", "LC_ALL"):
        monkeypatch.setenv(name, "1")
    with EmbeddedPostgres(data_dir) as postgres:
        assert ask(postgres.dsn, "SELECT current_database() || current_user") == "boatloadboatload"
        (server,) = servers(data_dir)
        assert {"PGPORT", "PGDATA", "PGOPTIONS"}.isdisjoint(server.environ())


def test_ordinary_handlers_are_put_back(data_dir: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # another server of this run may have its own there
    try:
        with EmbeddedPostgres(data_dir):
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_second_owner_is_refused_and_the_first_unharmed(data_dir: Path, owner: Owners) -> None:
    process = owner("sleep", data_dir)
    with pytest.raises(EmbeddedError, match=f"in use by boatload process {process.pid}: stop that process"):
        EmbeddedPostgres(data_dir).start()
    assert ask(attach(data_dir), "SELECT 1") == 1


def test_second_owner_in_one_process_is_refused(data_dir: Path) -> None:
    with (
        EmbeddedPostgres(data_dir) as postgres,
        pytest.raises(EmbeddedError, match=f"in use by boatload process {os.getpid()}"),
    ):
        EmbeddedPostgres(data_dir).start()
    assert servers(data_dir) == []
    postgres.stop()


def test_attach_reaches_the_server_of_another_process(data_dir: Path, owner: Owners) -> None:
    process = owner("sleep", data_dir)
    write(attach(data_dir))
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    with pytest.raises(
        EmbeddedError, match=r"no Boatload runs on the data directory .* start one with `boatload serve`"
    ):
        attach(data_dir)


def test_attach_where_nothing_ever_ran(base: Path) -> None:
    with pytest.raises(EmbeddedError, match="no Boatload runs"):
        attach(base / "nothing")
    assert not (base / "nothing").exists()


def test_a_forked_child_neither_stops_the_server_nor_keeps_the_lock(data_dir: Path, owner: Owners) -> None:
    process = owner("fork", data_dir)  # its first child has left the `with` block, its second one sleeps on
    child = int(read_until(process, "CHILD").split()[1])
    try:
        assert ask(attach(data_dir), "SELECT 1") == 1
        process.kill()
        process.wait()
        with EmbeddedPostgres(data_dir) as postgres:
            assert ask(postgres.dsn, "SELECT 1") == 1
            assert psutil.pid_exists(child)
    finally:
        os.kill(child, signal.SIGKILL)
