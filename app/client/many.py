"""Small files to the service, many to a request, each under its ref: the same again has no further effect.

So whatever becomes of a request, the service is asked which of its files it has, and the others are sent again.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from app.client.files import PIECE_BYTES, ChangedError, Failure, changed, read_whole, unreadable
from app.client.progress import Progress
from app.client.remote import BusyError, Declared, Json, ProblemError, Remote, Retries
from app.client.send import CLOSED, MISMATCH, BatchClosedError, Sender, mismatch

SMALL_BYTES: Final = PIECE_BYTES
"""Up to this size files go together; bigger ones are no faster so."""
REQUEST_BYTES: Final = 4 << 20
REQUEST_FILES: Final = 500
_ALONE: Final = 6
"""So many of those that cannot go together are under way at once."""
_TOO_MUCH: Final = frozenset({"request-too-large", "too-many-parts"})

Verdict = tuple[Declared, Failure | None]


@dataclass(slots=True)
class _Body:
    """A multipart body of files that were read."""

    boundary: str
    files: list[Declared] = field(default_factory=list)
    unread: list[Verdict] = field(default_factory=list)
    """Those that could not be read, and why."""
    pieces: list[tuple[bytes, int]] = field(default_factory=list)
    """The body, and how many bytes of each piece of it are of files."""

    @property
    def length(self) -> int:
        return sum(len(piece) for piece, _ in self.pieces)


class ManySender:
    """Sends small files of one push. Any number of calls at a time."""

    def __init__(self, remote: Remote, sender: Sender, readers: Executor, progress: Progress) -> None:
        self._remote: Final = remote
        self._sender: Final = sender
        self._readers: Final = readers
        self._progress: Final = progress
        self._together = True
        """Until the service has said that it takes no such requests."""

    async def send(self, batch_id: UUID, files: Sequence[Declared]) -> list[Failure]:
        """Return when the service has the files, REQUEST_FILES at the most, but for those returned.

        What becomes of these, and what is raised, is as `Sender.send` says.
        """
        retries, failures = Retries(self._remote.patience), list[Failure]()
        while files and self._together:
            body = await asyncio.get_running_loop().run_in_executor(self._readers, _framed, files)
            failures += await self._finish(body.unread)
            try:
                known, files = await self._exchange(batch_id, body, retries)
            except ProblemError as error:
                if error.code == CLOSED:
                    raise BatchClosedError(error.detail) from error
                if error.code in _TOO_MUCH:
                    self._together = False
                return failures + await self._one_by_one(body.files)
            if known:
                retries.reset()
            failures += await self._finish(known)
        return failures + await self._one_by_one(files)

    async def _exchange(
        self, batch_id: UUID, body: _Body, retries: Retries
    ) -> tuple[Sequence[Verdict], Sequence[Declared]]:
        """Send the files once; return of which it is known what became of them, and which are still to be sent."""
        if not body.files:
            return [], []
        kind = f"multipart/form-data; boundary={body.boundary}"
        try:
            results = await self._remote.send_files(
                batch_id, self._counted(body), length=body.length, content_type=kind, count=len(body.files)
            )
        except BusyError as error:
            await retries.pause(error)
            return await self._ask(batch_id, body.files)
        return [(file, _failure(file, result)) for file, result in zip(body.files, results, strict=True)], []

    async def _ask(self, batch_id: UUID, files: Sequence[Declared]) -> tuple[Sequence[Verdict], Sequence[Declared]]:
        """Return the same, as the service says it is."""
        known, left = list[Verdict](), list[Declared]()
        for file, now in zip(files, await self._remote.declare(batch_id, [file.entry for file in files]), strict=True):
            if now.have:
                known.append((now, None))
            elif now.refused and not file.refused:
                known.append((now, mismatch(now)))
            else:
                left.append(now)
        return known, left

    async def _finish(self, verdicts: Sequence[Verdict]) -> list[Failure]:
        for file, failure in verdicts:
            self._progress.arrived_bytes += 0 if failure else file.entry.size
            await self._sender.finish(file, failure)
        return [failure for _, failure in verdicts if failure]

    async def _one_by_one(self, files: Sequence[Declared]) -> list[Failure]:
        """Send each as a request of its own."""
        following = iter(files)

        async def some() -> list[Failure]:
            return [failure for file in following if (failure := await self._sender.send(file))]

        async with asyncio.TaskGroup() as group:
            sending = [group.create_task(some()) for _ in range(min(_ALONE, len(files)))]
        return [failure for task in sending for failure in task.result()]

    async def _counted(self, body: _Body) -> AsyncIterator[bytes]:
        for piece, size in body.pieces:
            self._progress.sent.bytes += size
            yield piece


def _framed(files: Sequence[Declared]) -> _Body:
    """Read the files, and frame them. Blocks."""
    body = _Body(secrets.token_hex(16))
    piece, inside = bytearray(), 0
    for file in files:
        try:
            data = read_whole(file.entry.path, 0, file.entry.size)
        except ChangedError as error:
            body.unread.append((file, changed(file.entry.ref, error)))
            continue
        except OSError as error:
            body.unread.append((file, unreadable(file.entry.ref, error)))
            continue
        body.files.append(file)
        piece += _head(body.boundary, file.entry.ref)
        piece += data
        piece += b"\r\n"
        inside += len(data)
        if len(piece) >= PIECE_BYTES:
            body.pieces.append((bytes(piece), inside))
            piece, inside = bytearray(), 0
    piece += b"--%b--\r\n" % body.boundary.encode()
    body.pieces.append((bytes(piece), inside))
    return body


def _head(boundary: str, ref: str) -> bytes:
    """Return what stands before a file (RFC 7578 §4.2; a quoted string as in RFC 2045)."""
    name = ref.replace("\\", "\\\\").replace('"', '\\"')
    return f'--{boundary}\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\n\r\n'.encode()


def _failure(file: Declared, result: Json) -> Failure | None:
    """Return why a file was not taken, or None where it was. Raises BatchClosedError."""
    problem = result["problem"]
    if problem is None:
        return None
    code = str(problem["type"]).rpartition("/")[2]
    if code == CLOSED:
        raise BatchClosedError(problem["detail"])
    return mismatch(file) if code == MISMATCH else Failure(file.entry.ref, code, problem["detail"])
