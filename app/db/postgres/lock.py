"""One owner for each data directory."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from app.db.postgres.layout import EmbeddedError, Layout


class OwnerLock:
    """Holds a data directory for this process while entered; makes the directory where there is none.

    The kernel drops the lock when the process ends, however it ends, so the file is never removed and its presence
    means nothing. Programs started meanwhile do not inherit it, and a forked child lets go of it at once: a child that
    outlives a killed owner must not keep the directory locked.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Take the lock.

        Raises EmbeddedError when another process (or another lock of this one) holds it, OSError when the directory
        or the file cannot be made.
        """
        make_data_dir(self._layout.data_dir)
        descriptor = os.open(self._layout.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "of another owner"
            os.close(descriptor)
            raise EmbeddedError(
                f"the data directory {self._layout.data_dir} is in use by boatload process {owner}:"
                " stop that process, or choose another --data-dir"
            ) from None
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        os.register_at_fork(after_in_child=self._close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go."""
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def make_data_dir(path: Path) -> None:
    """Make `path` and its missing parents; change no directory that exists.

    For a normal user it is private (0700). What root makes is 0755 whatever the umask, because another user, the
    server's, has to pass through it.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    as_root = os.geteuid() == 0
    for folder in reversed(missing):
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700 if folder == path and not as_root else 0o777)
            if as_root:
                folder.chmod(0o755)
