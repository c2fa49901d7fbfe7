"""One body with files in it: parsed and hashed off the event loop, handed to the group commit, accounted for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from uuid import UUID

from app.domain.batch import Batch
from app.domain.errors import BoatloadError, InvalidFieldError, InvalidFilenameError, NoFilesError
from app.domain.filename import parse_filename, printable
from app.domain.ids import Ids
from app.domain.limits import STEP_BYTES, Limits
from app.domain.upload import Upload
from app.ingest.arrival import Arrival, Assembly
from app.ingest.budget import Budget
from app.ingest.committing import Committed, commit_each, commit_together
from app.ingest.group import GroupCommit
from app.ingest.intake import CRUMB_BYTES, Intake
from app.ingest.keyed import KeyedRequest, Stretch
from app.ingest.submission import Draft, Submission
from app.storage.base import Store
from app.storage.forgetful import FORGETFUL
from app.uninterrupted import in_thread

_HASHERS: Final = 2
_KNOWN_FIELDS: Final = frozenset({"batch_id"})
_HOLD_BYTES: Final = 4 * STEP_BYTES
_HOLD_OBJECTS: Final = 64
_LIGHT_BYTES: Final = 64 * 1024


class BodyParser(Protocol):
    """Turns bytes into calls on a Reception. `feed` and `finish` block; all run in one thread at a time."""

    def can_wait(self, data: bytes) -> bool:
        """Say whether the next bytes complete nothing: they may be fed later, and what is wrong with them told then."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises the BoatloadError that says what is wrong with them."""

    def finish(self) -> None:
        """Say that there are no more. Raises TruncatedMultipartError where more were needed."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the files of a request go.

    `find_batch` is asked when the first file is whole, with the text of the field `batch_id` if one came before it; it
    returns the batch to add to, or None where one is to be opened for this request and sealed at its end. It raises the
    BoatloadError that says why the batch cannot be added to. `draft` writes the receipt's `drafts`.
    """

    owner: UUID
    find_batch: Callable[[str | None], Awaitable[UUID | None]]
    draft: Draft | None = None
    keyed: KeyedRequest | None = None
    """Where it has a key: what was kept of it before. `find_batch` is not asked where that says which batch it is."""
    named: bool = False
    """Whether the name of each file is its ref as well, in the batch that `find_batch` returns. Goes without a key."""


@dataclass(slots=True)
class Receipt:
    """What became of a request: one outcome for each file part, in order, as far as it went.

    Parts that were kept before under the request's key have none. Nor have files with a ref that were refused and made
    no upload; they are `sent`, and in the `drafts`.

    `error` says why it did not go to its end; what is in `outcomes` was kept all the same.
    """

    batch: Batch | None = None
    outcomes: list[Upload] = field(default_factory=list)
    sent: int = 0
    """Of so many file parts it is known what became of them."""
    taken: int = 0
    """How many of them were not rejected."""
    drafts: list[bytes] = field(default_factory=list)
    """What the target's `draft` wrote of the outcomes, a piece for each run of them."""
    error: BoatloadError | None = None


class Reception:
    """What a parser says of one body, as it says it. Lives in the parsing thread between two flushes."""

    def __init__(
        self, *, store: Store, limits: Limits, new_id: Ids, hashers: Executor, keyed: KeyedRequest | None = None
    ) -> None:
        self._store: Final = store
        self._keyed: Final = keyed
        self._limits: Final = limits
        self._hashers: Final = hashers
        self.new_id: Final = new_id
        self._assembly: Assembly | None = None
        self.files = 0
        self.fields: Final[dict[str, str]] = {}
        """The text fields that mean something here; others are passed over."""
        self.ready: list[Arrival] = []

    @property
    def memory_bytes(self) -> int:
        """Memory held by the file that is being received, and by those that are whole."""
        assembling = self._assembly.memory_bytes if self._assembly else 0
        return assembling + sum(arrival.memory_bytes for arrival in self.ready)

    @property
    def open_objects(self) -> int:
        """Objects of files that are whole, held open until their rows are committed."""
        return sum(arrival.writer is not None for arrival in self.ready)

    def is_light(self, size: int) -> bool:
        """Whether the next `size` bytes are little work, and none that writes, whatever they are."""
        in_memory = self._assembly is None or self._assembly.in_memory
        return in_memory and self.memory_bytes + size <= min(_LIGHT_BYTES, self._limits.pack_file_bytes)

    def begin_file(self, filename: bytes | None, content_type: str | None) -> None:
        """Begin a file part."""
        refusal: InvalidFilenameError | None = None
        try:
            name = parse_filename(filename)
        except InvalidFilenameError as error:
            name, refusal = printable(filename), error
        self._assembly = Assembly(
            self.files,
            name,
            content_type,
            store=FORGETFUL if self._keyed and self.files < self._keyed.parts else self._store,
            limits=self._limits,
            new_id=self.new_id,
            hashers=self._hashers,
        )
        self.files += 1
        if refusal:
            self._assembly.refuse(refusal)

    def add(self, data: bytes) -> None:
        """Take the next bytes of the file. Raises StorageFullError or StorageUnavailableError."""
        assert self._assembly is not None
        self._assembly.add(data)

    def end_file(self) -> None:
        """End the file: it is whole. Raises as `add` does, and IdempotencyKeyReusedError where it is another one."""
        assert self._assembly is not None
        arrival = self._assembly.finish()
        self._assembly = None
        if not (self._keyed and self._keyed.has(arrival, self.batch_field)):
            self.ready.append(arrival)

    @property
    def batch_field(self) -> str:
        """The text of the field `batch_id`, empty where none came."""
        return self.fields.get("batch_id", "")

    def add_field(self, name: str, value: str) -> None:
        """Take a text field. Raises InvalidFieldError for a `batch_id` behind the first file."""
        if name not in _KNOWN_FIELDS:
            return
        if self.files:
            raise InvalidFieldError(f"The field {name} must come before the first file.", field=name)
        self.fields[name] = value

    def spill(self) -> None:
        """Let go of memory. Raises as `add` does."""
        if self._assembly and self._assembly.memory_bytes:
            self._assembly.spill()

    def abandon(self) -> None:
        """Give up the file that never became whole, and those that no batch takes."""
        if self._assembly:
            self._assembly.abandon()
            self._assembly = None
        for arrival in self.ready:
            arrival.abandon()
        self.ready = []


class Receiver:
    """Takes bodies in. One per process."""

    def __init__(self, *, store: Store, group: GroupCommit, budget: Budget, limits: Limits, new_id: Ids) -> None:
        self._store: Final = store
        self._group: Final = group
        self._budget: Final = budget
        self._limits: Final = limits
        self._new_id: Final = new_id
        self._hashers: Final = ThreadPoolExecutor(_HASHERS, thread_name_prefix="hash")

    def close(self) -> None:
        """End the threads, once nothing is being received."""
        self._hashers.shutdown()

    async def receive(
        self, body: AsyncIterator[bytes], make_parser: Callable[[Reception], BodyParser], target: Target
    ) -> Receipt:
        """Take one body to its end, or as far as it goes.

        Each file that is whole is kept, and durable when this returns, whatever follows it; the one that was cut is
        not. Errors of the request are in the receipt; a body that breaks off raises what `body` raised, after the same.
        """
        reception = Reception(
            store=self._store, limits=self._limits, new_id=self._new_id, hashers=self._hashers, keyed=target.keyed
        )
        session = _Session(reception, make_parser(reception), self._group, self._budget, target)
        try:
            most = self._limits.max_request_bytes
            async with Intake(body, budget=self._budget, max_bytes=most, can_wait=session.can_wait) as intake:
                while True:
                    if intake.idle:
                        await session.commit_whole()
                    chunks = await intake.step()
                    if chunks is None:
                        break
                    await session.take(chunks)
            await session.finish()
        except BoatloadError as error:
            session.receipt.error = error
        finally:
            await asyncio.shield(session.settle())
        return session.receipt


class _Session:
    """The course of one `receive`."""

    def __init__(
        self, reception: Reception, parser: BodyParser, group: GroupCommit, budget: Budget, target: Target
    ) -> None:
        self.receipt: Final = Receipt()
        self._reception: Final = reception
        self._parser: Final = parser
        self._group: Final = group
        self._budget: Final = budget
        self._target: Final = target
        self._keyed: Final = target.keyed
        self._batch_id = target.keyed.batch_id if target.keyed else None
        self._opens = bool(target.keyed and target.keyed.opened)
        self._last: Submission | None = None
        self._held_bytes = 0
        self._turn: Final = asyncio.Lock()
        self._submitted: Final[list[asyncio.Task[Committed]]] = []
        self._well = 0
        """So many of them are done, and had no error; they are done in their order."""

    async def take(self, chunks: list[bytes]) -> None:
        """Parse one step, while what was submitted before is being committed.

        Files that came at one go are committed at one go: what is whole is held back while more is there already, up
        to `_HOLD_BYTES`, or `_HOLD_OBJECTS` open files, which are waited for. Raises what is wrong with the bytes, or
        what befell an earlier submission.
        """
        size = sum(map(len, chunks))
        self._held_bytes += size
        if not chunks or self._reception.memory_bytes >= _HOLD_BYTES:
            await self._submit()
        elif self._reception.open_objects >= _HOLD_OBJECTS:
            await self._submit()
            await asyncio.wait(self._submitted)
        while self._has_heard:
            if error := self._submitted[self._well].result().error:
                raise error
            self._well += 1
        try:
            if 0 < size <= CRUMB_BYTES and self._reception.is_light(size):
                self._work(chunks)  # a thread would take longer to begin; bodies may come byte by byte
            else:
                await in_thread(self._work, chunks)
        finally:
            self._keep(self._reception.memory_bytes)

    def can_wait(self, chunk: bytes) -> bool:
        """Say whether a chunk only adds to a part, and nothing has been heard that `take` might raise."""
        return not self._has_heard and self._parser.can_wait(chunk)

    @property
    def _has_heard(self) -> bool:
        """Whether it is known what became of another submission."""
        return self._well < len(self._submitted) and self._submitted[self._well].done()

    async def commit_whole(self) -> None:
        """Have what is whole committed, because nothing more is there yet. Raises what keeps it from its batch."""
        await self._submit()

    async def finish(self) -> None:
        """End a body that came to its end: its last files, and the seal of a batch opened for it, in one commit."""
        await in_thread(self._parser.finish)
        if not self._reception.files:
            raise NoFilesError("The body holds no file part.")
        if self._keyed:
            self._keyed.check_end(self._reception.files)
            if self._keyed.ended is not None:
                return
        await self._submit(last=True)

    async def settle(self) -> None:
        """Submit what is whole, and wait for every answer; nothing of this request is in memory afterwards."""
        try:
            await self._submit()
        except BoatloadError as error:
            self.receipt.error = self.receipt.error or error
        await asyncio.to_thread(self._reception.abandon)
        ended = await asyncio.gather(*self._submitted, return_exceptions=True)
        self._keep(0)
        errors = []
        for committed in ended:
            if isinstance(committed, BaseException):
                raise committed
            self._note(committed)
            errors += [committed.error] if committed.error else []
        self.receipt.error = errors[0] if errors else self.receipt.error

    def _note(self, committed: Committed) -> None:
        receipt = self.receipt
        if committed.batch and (receipt.batch is None or committed.batch.version >= receipt.batch.version):
            receipt.batch = committed.batch
        receipt.outcomes += committed.uploads
        receipt.sent += committed.sent
        receipt.taken += committed.taken
        receipt.drafts += [committed.drafted] if committed.drafted else []

    def _work(self, chunks: list[bytes]) -> None:
        if not chunks:
            self._reception.spill()
        for chunk in chunks:
            self._parser.feed(chunk)

    def _keep(self, size: int) -> None:
        self._budget.give(self._held_bytes - size)
        self._held_bytes = size

    async def _submit(self, *, last: bool = False) -> None:
        ready = self._reception.ready
        if not ready and not (last and (self._opens or self._keyed)):
            return
        if self._batch_id is None:
            self._batch_id = await self._target.find_batch(self._reception.fields.get("batch_id"))
            self._opens = self._batch_id is None
        self._reception.ready = []
        memory = sum(arrival.memory_bytes for arrival in ready)
        self._held_bytes -= memory
        self._submitted.append(asyncio.create_task(self._commit(self._way(ready, last=last), memory)))

    def _way(self, ready: list[Arrival], *, last: bool) -> Coroutine[Any, Any, Committed]:
        """Return what commits the files."""
        if self._target.named:
            assert self._batch_id is not None
            target = self._target
            return commit_each(self._group, target.owner, self._batch_id, ready, target.draft, turn=self._turn)
        stretch: Stretch | None = None
        if self._keyed:
            first = ready[0].index if ready else self._reception.files
            stretch = Stretch(self._keyed, first, self._reception.batch_field, opened=self._opens, ends=last)
        submission = Submission(
            owner=self._target.owner,
            batch_id=self._batch_id or self._reception.new_id(),
            arrivals=ready,
            opens=self._batch_id is None,
            seals=last and self._opens,
            behind=self._last,
            draft=self._target.draft,
            one_by_one=True,
            stretch=stretch,
        )
        self._last = submission
        self._batch_id = submission.batch_id
        return commit_together(self._group, submission)

    async def _commit(self, way: Coroutine[Any, Any, Committed], memory: int) -> Committed:
        try:
            return await way
        finally:
            self._budget.give(memory)
