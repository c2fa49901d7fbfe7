"""Files through the push, at whatever speed each step has: walked, hashed, declared, sent.

Between the steps are queues that are bounded, so that memory does not grow with the number of files. Whatever is hashed
while one manifest is under way goes into the next.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from itertools import islice
from threading import Event
from typing import Final
from uuid import UUID

from app.client.files import Entry, Failure, Found, Skipped, measure, walk
from app.client.many import REQUEST_BYTES, REQUEST_FILES, SMALL_BYTES, ManySender
from app.client.progress import Progress
from app.client.remote import CONNECTIONS, MANY, Declared, ProblemError, Remote
from app.client.send import BIG_BYTES, Sender

_WALKED: Final = 64
"""So many files are looked at, and then hashed, in one step of a thread."""
_HASHING: Final = 4
_WAITING: Final = 1000
MANY_SENDERS: Final = 4
"""Each with a request of many small files; while the service stores those of one, those of others are on their way."""
_BIG_SENDERS: Final = 4

Name = Found | Failure | Skipped
Files = asyncio.Queue[Declared | None]


class Pipeline:
    """One run over the named paths. Ends with every task when one of them fails; `stop` ends its threads."""

    def __init__(
        self,
        remote: Remote,
        sender: Sender,
        many: ManySender,
        threads: Executor,
        progress: Progress,
        *,
        find_batch: Callable[[], Awaitable[UUID]],
        lost: Callable[[Failure], None],
        skipped: Callable[[Skipped], None],
        excuse: Callable[[ProblemError], bool],
        stop: Event,
    ) -> None:
        self._remote: Final = remote
        self._sender: Final = sender
        self._many: Final = many
        self._threads: Final = threads
        self._progress: Final = progress
        self._find_batch: Final = find_batch
        self._lost: Final = lost
        self._skipped: Final = skipped
        self._excuse: Final = excuse
        self._stop: Final = stop
        self._hashed: Final = asyncio.Queue[Entry | None](MANY)
        self._small: Final = Files(_WAITING)
        self._others: Final = Files(_WAITING)
        self._big: Final = Files(_WAITING)
        self._senders: Final[Mapping[Files, int]] = {
            self._small: MANY_SENDERS,
            self._big: _BIG_SENDERS,
            self._others: CONNECTIONS - MANY_SENDERS - _BIG_SENDERS,
        }

    async def run(self, named: Sequence[Found]) -> None:
        """Return when every file is at the service or was reported. Raises the first error of any step."""
        try:
            async with asyncio.TaskGroup() as steps:
                steps.create_task(self._hash_all(named))
                steps.create_task(self._declare_all())
                for files, count in self._senders.items():
                    for _ in range(count):
                        steps.create_task(self._send_small() if files is self._small else self._send_each(files))
        except BaseExceptionGroup as group:
            raise _first(group) from group

    async def _hash_all(self, named: Sequence[Found]) -> None:
        loop, free, found = asyncio.get_running_loop(), asyncio.Semaphore(_HASHING), walk(named)
        async with asyncio.TaskGroup() as hashing:
            while chunk := await loop.run_in_executor(self._threads, _next, found):
                await free.acquire()
                hashing.create_task(self._hash(chunk, free))
        await self._hashed.put(None)

    async def _hash(self, chunk: list[Name], free: asyncio.Semaphore) -> None:
        try:
            work = asyncio.get_running_loop().run_in_executor(self._threads, self._measure_all, chunk)
            for result in await work:
                if isinstance(result, Entry):
                    self._progress.read.files += 1
                    await self._hashed.put(result)
                elif isinstance(result, Failure):
                    self._lost(result)
                elif result:
                    self._skipped(result)
        finally:
            free.release()

    def _measure_all(self, chunk: list[Name]) -> list[Entry | Failure | Skipped | None]:
        return [measure(one, self._stop, self._count) if isinstance(one, Found) else one for one in chunk]

    def _count(self, size: int) -> None:
        self._progress.read.bytes += size

    async def _declare_all(self) -> None:
        more = True
        while more:
            entries = [entry] if (entry := await self._hashed.get()) else []
            while entries and len(entries) < MANY and not self._hashed.empty():
                entry = self._hashed.get_nowait()
                if entry is None:
                    break
                entries.append(entry)
            more = entry is not None
            if entries:
                await self._declare(entries)
        for files, count in self._senders.items():
            for _ in range(count):
                await files.put(None)

    async def _declare(self, entries: list[Entry]) -> None:
        batch_id = await self._find_batch()
        while entries:
            try:
                declared = await self._remote.declare(batch_id, entries)
            except ProblemError as error:
                refs = set(error.refs)
                rest = [entry for entry in entries if entry.ref not in refs]
                if len(rest) == len(entries) or not self._excuse(error):
                    raise
                for ref in refs:
                    self._lost(Failure(ref, error.code, error.detail))
                entries = rest
                continue
            for file in declared:
                if file.have:
                    self._progress.had.add(file.entry.size)
                    self._progress.arrived_bytes += file.entry.size
                else:
                    await self._way_of(file).put(file)
            return

    def _way_of(self, file: Declared) -> Files:
        if file.entry.size >= BIG_BYTES:
            return self._big
        return self._small if file.entry.size <= SMALL_BYTES and not file.offset else self._others

    async def _send_small(self) -> None:
        more = True
        while more:
            files, more = await _gathered(self._small)
            if files:
                for failure in await self._many.send(await self._find_batch(), files):
                    self._lost(failure)

    async def _send_each(self, files: Files) -> None:
        while file := await files.get():
            failure = await self._sender.send(file)
            if failure:
                self._lost(failure)


async def _gathered(waiting: Files) -> tuple[list[Declared], bool]:
    """Return what waits, as much as goes into one request, once there is something; and whether more may follow."""
    files, size = list[Declared](), 0
    while file := await waiting.get():
        files.append(file)
        size += file.entry.size
        if waiting.empty() or len(files) == REQUEST_FILES or size >= REQUEST_BYTES:
            return files, True
    return files, False


def _next(found: Iterator[Name]) -> list[Name]:
    return list(islice(found, _WALKED))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return one error of a group, where most are that the others were cancelled."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
