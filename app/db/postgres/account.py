"""Who PostgreSQL runs as: ourselves, or a system user where we are root, which PostgreSQL refuses to be."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import psutil
import structlog

from app.db.postgres.layout import EmbeddedError

_SYSTEM_USER: Final = "boatload"
_SYSTEM_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"

_ENVIRONMENT: Final = {"LC_ALL": "C", "PATH": _SYSTEM_PATH, "TZ": "UTC"}
"""Nothing is inherited: a PGDATA or PGPORT of the operator's shell is about another server."""

_ENTER_EACH: Final = 'for folder in "$@"; do cd "$folder" 2>/dev/null || { printf %s "$folder"; exit 1; }; done'

_END_SECONDS: Final = 5.0
"""How long what was killed is waited for."""

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Account:
    """The user and group the server's processes have."""

    uid: int
    gid: int

    @property
    def is_other(self) -> bool:
        """Whether it is not the user of this process, which then is root."""
        return self.uid != os.geteuid()

    @property
    def name(self) -> str:
        """Its name, or its number where it has none."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    def spawn(self, command: Sequence[str | Path], output: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start `command` in a session of its own, so that Ctrl-C in our terminal does not reach it.

        Its input is empty, both its outputs go to `output`, its environment is minimal, its directory is `/`, which
        it can enter wherever we are. The caller waits for it. Raises OSError when it cannot be started.
        """
        return subprocess.Popen(  # noqa: S603 - no shell, and a program we chose
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=_ENVIRONMENT,
            start_new_session=True,
            user=self.uid if self.is_other else None,
            group=self.gid if self.is_other else None,
            extra_groups=[] if self.is_other else None,
        )

    def run(self, command: Sequence[str | Path]) -> tuple[int, str]:
        """Run `command` to its end, as `spawn` does; return its exit code and what it said. An interrupt kills it."""
        with tempfile.TemporaryFile() as output:
            child = self.spawn(command, output)
            try:
                child.wait()
            except BaseException:  # an interrupt as well must leave no program behind, nor what that has begun
                _end(child)
                raise
            output.seek(0)
            return child.returncode, output.read().decode(errors="replace").strip()

    def can_run(self, program: Path) -> bool:
        """Whether `program --version` works for this user."""
        try:
            return self.run([program, "--version"])[0] == 0
        except OSError:
            return False

    def first_closed(self, path: Path) -> Path | None:
        """Return the first directory on the way to `path`, or `path` itself, that this user cannot enter.

        It is tried, not computed from modes: access lists and mount options have their say. Raises EmbeddedError when
        we may not act as this user at all.
        """
        folders = [*reversed(path.parents), path]
        try:
            code, closed = self.run(["/bin/sh", "-c", _ENTER_EACH, "sh", *folders])
        except OSError as error:
            raise EmbeddedError(
                f"PostgreSQL refuses to run as root, and this process may not become the user {self.name}"
                f" ({error.strerror}): start Boatload as a normal user, or set BOATLOAD_DATABASE_URL"
            ) from error
        return Path(closed) if code else None


def account_for(pgdata: Path) -> Account:
    """Choose who the server on `pgdata` runs as; for root and a new cluster, make the user `boatload` if need be.

    An existing cluster keeps its owner, so that it can be served by root and by its owner in turn, and by an image in
    which the user has got another number. Raises EmbeddedError when there is nobody to run it as.
    """
    owner = pgdata.stat() if pgdata.exists() else None
    if os.geteuid() != 0:
        if owner and owner.st_uid != os.geteuid():
            raise EmbeddedError(
                f"the database in {pgdata} belongs to the user {Account(owner.st_uid, owner.st_gid).name}:"
                " start Boatload as that user or as root, or choose another --data-dir"
            )
        return Account(os.geteuid(), os.getegid())
    if owner is None:
        return _system_account()
    if owner.st_uid == 0:
        raise EmbeddedError(
            f"the database in {pgdata} belongs to root, and PostgreSQL refuses to run as root:"
            " give it to the user that shall run it, with chown -R"
        )
    return Account(owner.st_uid, owner.st_gid)


def _system_account() -> Account:
    try:
        entry = pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        fault = _add_system_user()
        try:
            entry = pwd.getpwnam(_SYSTEM_USER)  # asked even after a fault: another process may have been faster
        except KeyError:
            raise EmbeddedError(
                f"PostgreSQL refuses to run as root, and the user {_SYSTEM_USER} could not be made ({fault}):"
                " make it, start Boatload as a normal user, or set BOATLOAD_DATABASE_URL"
            ) from None
        _log.info("postgres_user_made", user=_SYSTEM_USER, uid=entry.pw_uid)
    return Account(entry.pw_uid, entry.pw_gid)


def _add_system_user() -> str:
    """Try to make the user; return what went wrong, or nothing."""
    program = shutil.which("useradd", path=_SYSTEM_PATH)
    if program is None:
        return "this system has no useradd"
    flags = ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"]
    return Account(os.geteuid(), os.getegid()).run([program, *flags, _SYSTEM_USER])[1]


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill a program that `spawn` started, and what it has begun in its session; return when they are gone, or soon."""
    begun: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        begun = psutil.Process(child.pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    give_up = time.monotonic() + _END_SECONDS
    while any(map(_is_alive, begun)) and time.monotonic() < give_up:
        time.sleep(0.01)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
