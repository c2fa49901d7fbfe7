"""One push from its first file to the end of its batch, and the following of a batch that others fill."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event
from time import monotonic
from typing import Final
from uuid import UUID

from app.client.files import Failure, Found, Skipped, survey
from app.client.many import ManySender
from app.client.pipeline import Pipeline
from app.client.progress import Progress, View
from app.client.remote import AwayError, Json, ProblemError, Remote
from app.client.send import BatchClosedError, Sender
from app.client.state import State
from app.domain.batch import FINAL_BATCH, BatchStatus
from app.domain.upload import UploadStatus

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
UNFINISHED: Final = 3

_POLL_SECONDS: Final = 0.3
_SHOW_SECONDS: Final = 0.2
_THREADS: Final = 10
_ANEW: Final = 3
_OUTDATED: Final = frozenset({"batch-closed", "not-found", "ref-conflict", "upload-gone", "upload-expired"})
"""What is said of a manifest that does not go into the batch of an earlier run any more."""


class AnewError(Exception):
    """What is to be sent is not what the earlier run's batch was declared for."""


class Push:
    """One run of the command. `state` is None where the batch is named by whoever calls."""

    def __init__(self, remote: Remote, view: View, *, state: State | None = None, batch_id: UUID | None = None) -> None:
        self._remote: Final = remote
        self._view: Final = view
        self._state: Final = state
        self._batch_id = batch_id
        self._resumed = self._anew = False
        self._progress = Progress()
        self._lost: dict[str, Failure] = {}
        """Files that are not in the batch, by their name there."""

    async def run(self, named: Sequence[Found]) -> int:
        """Send what is named, seal the batch, follow it to its end; return the exit code."""
        return await self._shown(lambda: self._push(named))

    async def watch(self) -> int:
        """Follow the batch to its end; return the exit code."""
        return await self._shown(self._follow)

    async def _shown(self, work: Callable[[], Awaitable[int]]) -> int:
        started, why, code = monotonic(), None, UNFINISHED
        showing = asyncio.create_task(self._show())
        try:
            code = await work()
        except AwayError as error:
            why = f"{str(error).rstrip('.')}. The same command goes on from here."
        except ProblemError as error:
            why = error.detail
        except asyncio.CancelledError:
            self._view.interrupted()
            raise
        finally:
            showing.cancel()
        self._view.ended(self._progress, code=code, seconds=monotonic() - started, why=why)
        return code

    async def _show(self) -> None:
        while True:
            self._view.moved(self._progress)
            await asyncio.sleep(_SHOW_SECONDS)

    async def _push(self, named: Sequence[Found]) -> int:
        await self._find_earlier()
        for _ in range(_ANEW):
            try:
                with suppress(BatchClosedError):  # what became of it is told by following it
                    await self._send_all(named)
                    await self._seal()
                break
            except AnewError:
                await self._begin_anew()
        else:
            raise AwayError("The files change faster than they can be declared.")
        code = await self._follow() if self._batch_id else DONE
        if self._state:
            self._state.clear()
        return FAILED if self._lost else code

    async def _find_earlier(self) -> None:
        """Look for the batch to fill. Raises ProblemError where the one that was named is not there."""
        if self._state:
            self._batch_id = self._state.load()
        if self._batch_id is None:
            return
        try:
            batch = await self._remote.get_batch(self._batch_id)
        except ProblemError:
            if not self._state:
                raise
            batch = None
        if self._state and (batch is None or batch["status"] == BatchStatus.CANCELLED):
            self._batch_id = None
            return
        self._resumed = self._state is not None
        self._view.opened(str(self._batch_id), again=True)

    async def _begin_anew(self) -> None:
        """Leave the earlier run's batch to itself; what it has stored need not be sent again."""
        if self._batch_id:
            with suppress(ProblemError):  # it is finished, or gone
                await self._remote.cancel(self._batch_id)
        if self._state:
            self._state.clear()
        self._batch_id, self._resumed, self._anew = None, False, True
        self._progress = Progress(sent=self._progress.sent, failures=len(self._lost))

    async def _send_all(self, named: Sequence[Found]) -> None:
        stop, started = Event(), monotonic()
        threads = ThreadPoolExecutor(_THREADS, "push")
        opening = asyncio.Lock()

        async def find_batch() -> UUID:
            async with opening:
                return await self._open(named)

        try:
            surveying = threads.submit(survey, named, self._progress.surveyed.add, stop)
            sender = Sender(self._remote, threads, self._progress)
            pipeline = Pipeline(
                self._remote,
                sender,
                ManySender(self._remote, sender, threads, self._progress),
                threads,
                self._progress,
                find_batch=find_batch,
                lost=self._lose,
                skipped=self._skip,
                excuse=self._excuse,
                stop=stop,
            )
            await pipeline.run(named)
            surveying.cancel()
            self._progress.sending_seconds = monotonic() - started
        except ProblemError as error:
            if self._resumed and error.code in _OUTDATED:
                raise AnewError from error
            if self._state and error.code == "batch-closed":
                raise BatchClosedError(error.detail) from error
            raise
        finally:
            stop.set()
            threads.shutdown(wait=False, cancel_futures=True)

    async def _open(self, named: Sequence[Found]) -> UUID:
        if self._batch_id is None:
            label = ", ".join(source.ref for source in named if source.ref.isprintable())[:200]
            batch = await self._remote.open_batch(label)
            self._batch_id = UUID(batch["id"])
            if self._state:
                self._state.save(self._batch_id)
            self._view.opened(batch["id"], again=False)
        return self._batch_id

    def _excuse(self, error: ProblemError) -> bool:
        """Say whether a manifest goes on without the files that it was refused for."""
        return not (self._resumed and error.code in _OUTDATED)

    async def _seal(self) -> None:
        """Take out what can never arrive, and say that nothing more will."""
        if self._batch_id is None:
            return
        if self._state:  # in a batch of others there may be files of others
            async for upload in self._remote.uploads(self._batch_id, UploadStatus.RECEIVING):
                gone = "It was declared by an earlier run, and is not there any more."
                self._lose(Failure(upload["ref"], "missing", gone))
                await self._remote.drop(upload["id"])
        try:
            await self._remote.seal(self._batch_id)
        except ProblemError as error:
            if error.code != "batch-closed":
                raise

    async def _follow(self) -> int:
        assert self._batch_id
        batch = await self._look()
        while batch["status"] not in FINAL_BATCH:
            await asyncio.sleep(_POLL_SECONDS)
            batch = await self._look()
        if batch["failed_uploads"]:
            async for upload in self._remote.uploads(self._batch_id, UploadStatus.FAILED):
                self._tell(upload)
        return DONE if batch["status"] == BatchStatus.COMPLETED and not batch["failed_uploads"] else FAILED

    async def _look(self) -> Json:
        assert self._batch_id
        batch = await self._remote.get_batch(self._batch_id)
        self._progress.batch = batch
        return batch

    def _tell(self, upload: Json) -> None:
        name = upload["ref"] or upload["filename"]
        error = upload["error"] or {"type": "unknown", "detail": "The service does not say why."}
        if name not in self._lost:
            self._progress.failures += 1
            self._view.failed(Failure(name, error["type"].rpartition("/")[2], error["detail"]))

    def _lose(self, failure: Failure) -> None:
        if failure.ref in self._lost:
            return
        self._lost[failure.ref] = failure
        self._progress.failures += 1
        self._view.failed(failure)

    def _skip(self, skipped: Skipped) -> None:
        self._progress.skipped += 1
        if not self._anew:
            self._view.skipped(skipped)
