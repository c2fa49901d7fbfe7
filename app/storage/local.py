"""Objects as files on a local disk: `<root>/<last two hex digits of the id>/<id>`.

A file is written under its final name, which no row refers to until the bytes are durable. Each writer holds a lock
(flock) on its file, and so does whoever removes one: a file in use is never taken away, and a killed process holds
nothing.
"""

import errno
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog

from app.domain.errors import StorageFullError, StorageUnavailableError
from app.storage.sinks import CachedSink, DirectSink

log: Final = structlog.get_logger("boatload.storage")

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_OURS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL})
"""What syncing a folder answers that we cannot have made: closed to us, read-only, or of a kind that is not synced."""
_NAME: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHARDS: Final = tuple(f"{number:02x}" for number in range(256))


class LocalStore:
    """A store in one folder of one machine. `prepare` must have run once before anything else."""

    def __init__(self, root: Path) -> None:
        self.root: Final = root

    def prepare(self) -> None:
        """Make the folder and its 256 subfolders, durably. Idempotent. Raises StorageUnavailableError.

        All folders above are synced as well, each time: an earlier start may have been killed before it did.
        """
        with _translated("prepare", self.root):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for shard in _SHARDS:
                (self.root / shard).mkdir(mode=0o700, exist_ok=True)
            _sync_folder(self.root)
            for folder in self.root.absolute().parents:
                try:
                    _sync_folder(folder)
                except OSError as error:
                    if error.errno not in _NOT_OURS:
                        raise

    def create(self, object_id: UUID, *, big: bool = False) -> "LocalWriter":
        """Begin a new file. Its name becomes durable with the first `sync`."""
        path = self._path(object_id)
        with _translated("create", path):
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                raise
        return LocalWriter(object_id, path, descriptor, sink=DirectSink(descriptor) if big else CachedSink(descriptor))

    def reopen(self, object_id: UUID, *, at: int) -> "LocalWriter | None":
        """Take the file's lock."""
        path = self._path(object_id)
        with _translated("reopen", path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(descriptor)
                    return None
                longer = _is_longer(descriptor, at)
                os.lseek(descriptor, at, os.SEEK_SET)
                sink = DirectSink(descriptor, at=at)
            except OSError:
                os.close(descriptor)
                raise
        return LocalWriter(object_id, path, descriptor, sink=sink, at=at, longer=longer)

    def open(self, object_id: UUID) -> "LocalReader":
        """Open a file for reading."""
        path = self._path(object_id)
        with _translated("open", path):
            return LocalReader(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def list(self) -> Iterator[UUID]:
        """Yield the id of each file; names that are no ids are not ours and are passed over."""
        for shard in _SHARDS:
            with _translated("list", self.root / shard), os.scandir(self.root / shard) as entries:
                names = [entry.name for entry in entries]
            for name in names:
                if _NAME.fullmatch(name):
                    yield UUID(name)

    def claim_abandoned(self, object_id: UUID) -> "LocalClaim | None":
        """Take the file's lock; None where a writer has it."""
        path = self._path(object_id)
        with _translated("claim", path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return LocalClaim(path, None)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
        return LocalClaim(path, descriptor)

    def _path(self, object_id: UUID) -> Path:
        name = str(object_id)
        return self.root / name[-2:] / name


class LocalWriter:
    """A file being written. One that is gone on with begins `at` its durable bytes, and may be `longer`."""

    def __init__(
        self,
        object_id: UUID,
        path: Path,
        descriptor: int,
        *,
        sink: "CachedSink | DirectSink",
        at: int | None = None,
        longer: bool = False,
    ) -> None:
        self.object_id: Final = object_id
        self.size_bytes = at or 0
        self._longer = longer
        self._path: Final = path
        self._descriptor: int | None = descriptor
        self._sink: Final = sink
        self._named = at is not None
        self._broken = False

    def write(self, buffers: Sequence[bytes]) -> None:
        """Append, through the page cache or past it."""
        with self._sound("write") as descriptor:
            self._cut(descriptor)
            self._sink.write(buffers)
            self.size_bytes += sum(map(len, buffers))

    def sync(self) -> None:
        """Sync the data, and the folder where the name is new."""
        with self._sound("sync") as descriptor:
            self._cut(descriptor)
            self._sink.flush()
            os.fdatasync(descriptor)
            if not self._named:
                _sync_folder(self._path.parent)
                self._named = True

    def close(self) -> None:
        """Close the file, and with it give up its lock. Late errors of the disk do not matter: `sync` has spoken."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def discard(self) -> None:
        """Remove the file before its lock is given up. Where that fails, the sweeper will find it."""
        if self._descriptor is not None:
            with suppress(OSError):
                self._path.unlink()
        self.close()

    def _cut(self, descriptor: int) -> None:
        if self._longer:
            os.ftruncate(descriptor, self.size_bytes)
            self._longer = False

    @contextmanager
    def _sound(self, action: str) -> Iterator[int]:
        """Hand out the descriptor, unless an earlier call failed; a failure in here is the last one."""
        if self._broken or self._descriptor is None:
            raise StorageUnavailableError
        self._broken = True
        with _translated(action, self._path):
            yield self._descriptor
        self._broken = False


class LocalReader:
    """A file being read."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path: Final = path
        self._descriptor: int | None = descriptor

    def read(self, offset: int, size: int) -> bytes:
        """Read without moving any shared position."""
        if self._descriptor is None:
            raise StorageUnavailableError
        with _translated("read", self._path):
            data = os.pread(self._descriptor, size, offset)
            while len(data) < size:
                more = os.pread(self._descriptor, size - len(data), offset + len(data))
                if not more:
                    raise OSError(errno.EIO, "the file is shorter than its rows say")
                data += more
        return data

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        """Close what a client that went away before its first byte left open."""
        self.close()


class LocalClaim:
    """A file's lock, held in order to remove it."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self._path: Final = path
        self._descriptor = descriptor

    def remove(self) -> None:
        """Remove the file. The name may come back after a power cut; then the next sweep removes it again."""
        with _translated("remove", self._path):
            self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Give up the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _is_longer(descriptor: int, at: int) -> bool:
    """Say whether a file that was locked holds more than its row says. Raises OSError where it holds less."""
    found = os.fstat(descriptor)
    if not found.st_nlink:
        raise OSError(errno.ENOENT, "the file was removed before its lock could be taken")
    if found.st_size < at:
        raise OSError(errno.EIO, "the file is shorter than its row says")
    return found.st_size > at


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated(action: str, path: Path) -> Iterator[None]:
    """Turn an OSError into one of ours; the cause is logged here, once, with the path that no client is told."""
    try:
        yield
    except OSError as error:
        log.error("storage failed", action=action, path=str(path), error=str(error))  # noqa: TRY400 - no bug of ours
        if error.errno in _FULL:
            raise StorageFullError from error
        raise StorageUnavailableError from error
