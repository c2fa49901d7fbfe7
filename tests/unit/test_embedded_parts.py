import os
import stat
from pathlib import Path

import pytest

from app.db.embedded import restart_delay_seconds
from app.db.postgres.layout import EmbeddedError, Layout
from app.db.postgres.lock import make_data_dir
from app.db.postgres.reports import PidFile, last_reason, parse_pid_file

PID_FILE = """\
3072
/srv/boatload/postgres
1712346200
5432
/srv/boatload/run

  8826964     65536
ready   
"""  # noqa: W291 - PostgreSQL pads the state


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_pid_file_of_a_ready_server() -> None:
    assert parse_pid_file(PID_FILE) == PidFile(3072, "ready")


def test_pid_file_without_a_state_yet() -> None:
    assert parse_pid_file("3072\n/srv/boatload/postgres\n") == PidFile(3072, "")


def test_pid_file_of_a_single_user_server_is_negative() -> None:
    assert parse_pid_file("-3072\n") == PidFile(-3072, "")


@pytest.mark.parametrize("text", ["", "\n", "garbage\n", "30x\n"])
def test_pid_file_that_names_no_process(text: str) -> None:
    assert parse_pid_file(text) is None


def test_last_reason_is_the_last_and_not_what_clients_were_told() -> None:
    text = (
        "2026-01-01 UTC [1] FATAL:  could not open file\n"
        "2026-01-01 UTC [1] PANIC:  could not locate a valid checkpoint record\n"
        "2026-01-01 UTC [2] FATAL:  the database system is starting up\n"
        "2026-01-01 UTC [1] LOG:  database system is shut down\n"
    )
    assert last_reason(text) == "could not locate a valid checkpoint record"


def test_last_reason_of_initdb_is_not_its_last_line() -> None:
    text = "initdb: error: could not access directory\ninitdb: removing contents of data directory\n"
    assert last_reason(text) == "could not access directory"


def test_no_reason() -> None:
    assert last_reason("LOG:  all is well\n") is None


def test_restarts_are_at_once_then_rarer_but_never_given_up() -> None:
    assert [restart_delay_seconds(restarts) for restarts in range(5)] == [0, 0.5, 1, 2, 4]
    assert restart_delay_seconds(10_000) == 30


def test_dsn_escapes_the_path_and_states_the_port() -> None:
    assert Layout(Path("/a b/c?&d")).dsn() == "postgresql://boatload@/boatload?host=/a%20b/c%3F%26d/run&port=5432"


def test_longest_path_that_fits_a_socket() -> None:
    tail = len("/run/.s.PGSQL.5432")
    limit = next(size for size in (103, 107) if _fits(size - tail) and not _fits(size - tail + 1))
    assert limit == (103 if os.uname().sysname == "Darwin" else 107)


def _fits(length: int) -> bool:
    try:
        Layout(Path("/" + "a" * (length - 1))).check()
    except EmbeddedError:
        return False
    return True


def test_path_too_long_is_counted_in_bytes_and_says_what_to_do() -> None:
    with pytest.raises(EmbeddedError, match=r"bytes too long .* shorter --data-dir, or set BOATLOAD_DATABASE_URL"):
        Layout(Path("/" + "ü" * 50)).check()


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a\nb"])
def test_names_that_no_socket_address_holds_are_refused(name: str) -> None:
    with pytest.raises(EmbeddedError, match="choose another --data-dir"):
        Layout(Path("/srv") / name).check()


def test_data_dir_is_private_or_for_root_open_whatever_the_umask(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    umask = os.umask(0o077)
    try:
        make_data_dir(tmp_path / "a" / "b")
    finally:
        os.umask(umask)
    assert mode_of(tmp_path / "a" / "b") == (0o755 if os.geteuid() == 0 else 0o700)
    assert mode_of(tmp_path) == 0o700


def test_an_existing_data_dir_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o711)
    make_data_dir(tmp_path / "data")
    assert mode_of(tmp_path / "data") == 0o711
