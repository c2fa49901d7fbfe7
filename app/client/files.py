"""What is to be sent: files under the paths that were named, their size and digest, and their bytes in pieces."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Final, NamedTuple

from app.domain.errors import InvalidFilenameError
from app.domain.filename import parse_filename, printable

PIECE_BYTES: Final = 256 * 1024


class NamesCollideError(Exception):
    """Two of the paths would send their files under the same names."""


class ChangedError(Exception):
    """A file is not what was declared of it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file to be sent."""

    path: str
    ref: str
    """Its name in the batch: its path from the named folder on, that folder's own name included."""


class Failure(NamedTuple):
    """A file that is not, or not as it should be, in the batch, and why."""

    ref: str
    code: str
    detail: str


class Skipped(NamedTuple):
    """Something that is no file."""

    ref: str
    why: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A file whose bytes were read once."""

    path: str
    ref: str
    size: int
    sha256: bytes


def sources(paths: Sequence[Path]) -> list[Found]:
    """Return the named paths, absolute, each with the name that it gives to what it holds.

    Links are followed here, and nowhere below. Raises NamesCollideError.
    """
    named = [Found(os.path.abspath(path), Path(os.path.abspath(path)).name) for path in paths]  # noqa: PTH100 - keeps links
    seen: dict[str, str] = {}
    for source in named:
        other = seen.setdefault(source.ref, source.path)
        if other != source.path or (source.ref == "" and len(named) > 1):
            raise NamesCollideError(f"{other} and {source.path} would have the same names in the batch.")
    return [Found(path, ref) for ref, path in seen.items()]


def walk(named: Sequence[Found]) -> Iterator[Found | Failure | Skipped]:
    """Yield every file under the paths, in no order, and what stands in the way of others.

    Symbolic links below a named folder are not followed: they are skipped, as are sockets, pipes and devices. Holds no
    more than one open folder for each level.
    """
    for source in named:
        try:
            mode = os.stat(source.path).st_mode  # noqa: PTH116 - a plain string, as below
        except OSError as error:
            yield unreadable(source.ref, error)
            continue
        if stat.S_ISDIR(mode):
            yield from _walk_folder(source)
        elif stat.S_ISREG(mode):
            yield _named(source)
        else:
            yield Skipped(_shown(source.ref), "no regular file")


def survey(named: Sequence[Found], add: Callable[[int], None], stop: Event) -> None:
    """Call `add` with the size of each file that `walk` finds now, until `stop`."""
    for found in walk(named):
        if stop.is_set():
            return
        if isinstance(found, Found):
            try:
                add(os.stat(found.path).st_size)  # noqa: PTH116 - a plain string
            except OSError:
                continue


def measure(found: Found, stop: Event, read: Callable[[int], None]) -> Entry | Failure | None:
    """Read a file to its end, telling `read` of the bytes; return what is to be declared of it, None after `stop`."""
    digest, size, buffer = hashlib.sha256(), 0, bytearray(PIECE_BYTES)
    view = memoryview(buffer)
    try:
        with open(found.path, "rb", buffering=0) as opened:  # noqa: PTH123 - a plain string, many thousand times
            while count := opened.readinto(buffer):
                if stop.is_set():
                    return None
                digest.update(view[:count])
                size += count
                read(count)
    except OSError as error:
        return unreadable(found.ref, error)
    return Entry(found.path, found.ref, size, digest.digest())


def open_at(path: str, size: int) -> int:
    """Open a file that was declared with `size` bytes, and return its descriptor, which the caller closes.

    Raises ChangedError where it has another size now, OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    now = os.fstat(descriptor).st_size
    if now != size:
        os.close(descriptor)
        raise ChangedError(f"It had {size} bytes when it was declared, and has {now} now.")
    return descriptor


def read_whole(path: str, offset: int, size: int) -> bytes:
    """Return a file from `offset` on. Raises as `open_at` does."""
    descriptor = open_at(path, size)
    try:
        data = b""
        while len(data) < size - offset:
            data += read_piece(descriptor, offset + len(data), size)
        return data
    finally:
        os.close(descriptor)


def read_piece(descriptor: int, offset: int, size: int) -> bytes:
    """Return the next piece of a file of `size` bytes, never an empty one. Raises ChangedError where it ends early."""
    data = os.pread(descriptor, min(PIECE_BYTES, size - offset), offset)
    if not data:
        raise ChangedError(f"It had {size} bytes when it was declared, and has {offset} now.")
    return data


def unreadable(ref: str, error: OSError) -> Failure:
    """Return what is said of a file that the system does not let us read."""
    return Failure(_shown(ref), "unreadable", error.strerror or str(error))


def changed(ref: str, error: ChangedError) -> Failure:
    """Return what is said of a file that changed under our hands."""
    return Failure(_shown(ref), "changed", str(error))


def _walk_folder(source: Found) -> Iterator[Found | Failure | Skipped]:
    try:
        with os.scandir(source.path) as entries:
            for entry in entries:
                ref = f"{source.ref}/{entry.name}" if source.ref else entry.name
                inner = Found(entry.path, ref)
                if entry.is_symlink():
                    yield Skipped(_shown(ref), "symbolic link")
                elif entry.is_dir(follow_symlinks=False):
                    # Nothing below a name that is too long has one that fits, so no tree is too deep for this.
                    named = _named(inner)
                    yield from _walk_folder(named) if isinstance(named, Found) else [named]
                elif entry.is_file(follow_symlinks=False):
                    yield _named(inner)
                else:
                    yield Skipped(_shown(ref), "no regular file")
    except OSError as error:
        yield unreadable(source.ref, error)


def _named(found: Found) -> Found | Failure:
    try:
        parse_filename(os.fsencode(found.ref))
    except InvalidFilenameError as error:
        return Failure(_shown(found.ref), error.code, error.detail)
    return found


def _shown(ref: str) -> str:
    return printable(os.fsencode(ref))
