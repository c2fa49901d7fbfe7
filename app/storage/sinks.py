"""Two ways to append to a file: through the page cache, or past it.

What arrives in megabytes, a big file or a group of small ones, goes to the disk directly (O_DIRECT), in aligned blocks:
through the cache it would push out what the database needs, and making its pages costs more than writing them.
"""

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Sequence
from typing import Final

from app.storage.base import BLOCK_BYTES

_STAGE_BYTES: Final = 1 << 20
_IOV_MAX: Final = 1024
_O_DIRECT: Final[int] = getattr(os, "O_DIRECT", 0)


class CachedSink:
    """Appends through the page cache, with as few system calls as there are thousands of buffers."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: Final = descriptor

    def write(self, buffers: "Sequence[bytes | memoryview]") -> None:
        """Append all of `buffers`. Raises OSError."""
        pending = [memoryview(buffer) for buffer in buffers if buffer]
        while pending:
            written = os.writev(self._descriptor, pending[:_IOV_MAX])
            done = 0
            while done < len(pending) and written >= len(pending[done]):
                written -= len(pending[done])
                done += 1
            pending = pending[done:]
            if written:
                pending[0] = pending[0][written:]

    def flush(self) -> None:
        """Nothing is held back."""


class DirectSink:
    """Appends past the page cache, holding back less than a block until `flush`; cached where that cannot be.

    `at` is how long the file is; where that is no whole block, the block is filled through the cache first.
    """

    def __init__(self, descriptor: int, *, at: int = 0) -> None:
        self._descriptor: Final = descriptor
        self._cached: Final = CachedSink(descriptor)
        self._lead = -at % BLOCK_BYTES
        self._direct = _O_DIRECT != 0 and not self._lead and _switch(descriptor, on=True)
        self._rest = b""

    def write(self, buffers: "Sequence[bytes | memoryview]") -> None:
        """Append all of `buffers`, but for a rest shorter than a block. Raises OSError."""
        if self._lead:
            buffers = self._write_lead(buffers)
        if not self._direct:
            self._cached.write(buffers)
            return
        stage = _stage()
        filled = len(self._rest)
        stage[:filled] = self._rest
        for buffer in buffers:
            view = memoryview(buffer)
            while view:
                piece = view[: _STAGE_BYTES - filled]
                stage[filled : filled + len(piece)] = piece
                filled += len(piece)
                view = view[len(piece) :]
                if filled == _STAGE_BYTES:
                    self._write_blocks(stage)
                    filled = 0
        aligned = filled - filled % BLOCK_BYTES
        self._write_blocks(stage[:aligned])
        self._rest = bytes(stage[aligned:filled])

    def flush(self) -> None:
        """Append the rest, if it fills no block; from there on it writes through the cache. Raises OSError."""
        if self._direct and self._rest:
            self._direct = False
            _switch(self._descriptor, on=False)
            self._cached.write([self._rest])
            self._rest = b""

    def _write_lead(self, buffers: "Sequence[bytes | memoryview]") -> "list[bytes | memoryview]":
        """Fill the block that the file ended in, and return what comes behind it."""
        rest: list[bytes | memoryview] = []
        for buffer in buffers:
            self._cached.write([buffer[: self._lead]])
            if len(buffer) > self._lead:
                rest.append(memoryview(buffer)[self._lead :])
            self._lead -= min(self._lead, len(buffer))
        if not self._lead:
            self._direct = _O_DIRECT != 0 and _switch(self._descriptor, on=True)
        return rest

    def _write_blocks(self, blocks: memoryview) -> None:
        try:
            while blocks:
                blocks = blocks[os.write(self._descriptor, blocks) :]
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Some file systems take the flag and refuse the write, and a short write may leave the rest unaligned.
            _switch(self._descriptor, on=False)
            self._cached.write([bytes(blocks)])


_threads: Final = threading.local()


def _stage() -> memoryview:
    """Return this thread's aligned buffer, whose content is good until the thread's next write."""
    stage: memoryview | None = getattr(_threads, "stage", None)
    if stage is None:
        stage = _threads.stage = memoryview(mmap.mmap(-1, _STAGE_BYTES))
    return stage


def _switch(descriptor: int, *, on: bool) -> bool:
    """Turn O_DIRECT on or off, and say whether that worked."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | _O_DIRECT if on else flags & ~_O_DIRECT)
    except OSError:
        return False
    return True
