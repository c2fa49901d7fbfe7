"""The bytes of one file to the service: from where it has them, and again from there after whatever went wrong."""

import asyncio
import os
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from typing import Final

from app.client.files import PIECE_BYTES, ChangedError, Failure, changed, open_at, read_piece, read_whole, unreadable
from app.client.progress import Progress
from app.client.remote import BusyError, Declared, Json, ProblemError, Remote, Retries
from app.domain.upload import UploadStatus

BIG_BYTES: Final = 8 << 20
"""From this size on a file has a bar of its own."""
MISMATCH: Final = "digest-mismatch"
CLOSED: Final = "batch-closed"


class BatchClosedError(Exception):
    """Somebody has cancelled the batch."""


class Sender:
    """Sends files of one push. Any number at a time."""

    def __init__(self, remote: Remote, readers: Executor, progress: Progress) -> None:
        self._remote: Final = remote
        self._readers: Final = readers
        self._progress: Final = progress

    async def send(self, file: Declared) -> Failure | None:
        """Return when the service has the file, or with why it never will.

        A file that can not be sent to its end is taken out of the batch, which could not end otherwise; one that was
        refused with its last byte stays there, failed. Raises AwayError, BatchClosedError.
        """
        try:
            failure = await self._persist(file)
        except ChangedError as error:
            failure = changed(file.entry.ref, error)
        except OSError as error:
            failure = unreadable(file.entry.ref, error)
        except ProblemError as error:
            if error.code == CLOSED:
                raise BatchClosedError(error.detail) from error
            failure = Failure(file.entry.ref, error.code, error.detail)
        finally:
            self._progress.big.pop(file.entry.ref, None)
        await self.finish(file, failure)
        return failure

    async def finish(self, file: Declared, failure: Failure | None) -> None:
        """Count a file that is sent; take one that can not be out of the batch, unless it is there as a failed one."""
        if failure is None:
            self._progress.sent.files += 1
        elif failure.code != MISMATCH:
            await self._remote.drop(file.upload_id)

    async def _persist(self, file: Declared) -> Failure | None:
        retries, offset, size = Retries(self._remote.patience), file.offset, file.entry.size
        self._progress.arrived_bytes += offset
        while True:
            upload = await self._try(file, offset, retries)
            if upload is None or (
                upload["status"] == UploadStatus.FAILED and not upload["sha256"] and not file.refused
            ):
                return mismatch(file)
            received: int = size if upload["sha256"] else upload["received_bytes"]
            self._progress.arrived_bytes += received - offset
            if upload["sha256"]:
                return None
            if upload["status"] == UploadStatus.CANCELLED:
                raise BatchClosedError("The upload is cancelled.")
            if received > offset:
                retries.reset()
            offset = received

    async def _try(self, file: Declared, offset: int, retries: Retries) -> Json | None:
        """Send what is missing once; return the upload as it is then, None where the bytes were other ones."""
        try:
            return await self._attempt(file, offset)
        except BusyError as error:
            await retries.pause(error)
        except ProblemError as error:
            if error.code == MISMATCH:
                return None
            if error.code != "offset-mismatch":
                raise
            await retries.pause(BusyError(error.detail))
        return await self._remote.get_upload(file.upload_id)

    async def _attempt(self, file: Declared, offset: int) -> Json:
        """Send what is missing once, and return the upload. Raises ChangedError, OSError, BusyError, ProblemError."""
        entry, loop, progress = file.entry, asyncio.get_running_loop(), self._progress
        length = entry.size - offset
        if length <= PIECE_BYTES:
            data = await loop.run_in_executor(self._readers, read_whole, entry.path, offset, entry.size)
            progress.sent.bytes += length
            return await (self._remote.append(file, data, offset=offset) if offset else self._remote.put(file, data))
        descriptor = await loop.run_in_executor(self._readers, open_at, entry.path, entry.size)
        pieces = self._pieces(file, descriptor, offset)
        try:
            return await self._remote.append(file, pieces, offset=offset)
        finally:
            await pieces.aclose()
            os.close(descriptor)

    async def _pieces(self, file: Declared, descriptor: int, offset: int) -> AsyncGenerator[bytes]:
        """Yield a file from `offset` on; the next piece is read while one is sent."""
        loop, size, progress = asyncio.get_running_loop(), file.entry.size, self._progress
        following = loop.run_in_executor(self._readers, read_piece, descriptor, offset, size)
        try:
            while offset < size:
                data = await following
                offset += len(data)
                if offset < size:
                    following = loop.run_in_executor(self._readers, read_piece, descriptor, offset, size)
                progress.sent.bytes += len(data)
                if size >= BIG_BYTES:
                    progress.big[file.entry.ref] = (offset, size)
                yield data
        finally:
            if not following.done():
                await asyncio.wait([following])  # it uses the descriptor


def mismatch(file: Declared) -> Failure:
    """Return what is said of a file whose bytes are not the declared ones."""
    return Failure(file.entry.ref, MISMATCH, "Its bytes changed between declaring and sending it.")
