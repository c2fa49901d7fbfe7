"""A pool of child processes for the work on files: they may crash or hang, and only the file that did it is blamed.

Each child is given a little ahead, by how fast it has been: about 20 ms of work, so that none waits for its parent, and
little waits behind a slow file. A child that dies or is too slow is replaced; what it had not begun goes to others.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import structlog

from app.domain.errors import BoatloadError
from app.domain.processing_errors import ProcessorCrashedError, ProcessorTimeoutError
from app.domain.upload import Refusal, Upload
from app.processing.children import Child, ChildError, ChildTimeoutError
from app.processing.choices import Choices
from app.processing.outcome import Outcome
from app.processing.protocol import OUT_OF_MEMORY, Orders, read_answer
from app.uninterrupted import to_its_end

log: Final = structlog.get_logger("boatload.sandbox")

_AHEAD_SECONDS: Final = 0.02
_MOST_AHEAD: Final = 15
_FIRST_PACE_SECONDS: Final = 0.02


@dataclass(slots=True, eq=False)
class _Call:
    """One call of `process`, while it lasts."""

    waiting: deque[Upload]
    chosen: Mapping[UUID, tuple[str, ...]]
    """By batch."""
    outcomes: asyncio.Queue[Outcome] = field(default_factory=asyncio.Queue)
    is_over: bool = False

    def processors(self, upload: Upload) -> tuple[str, ...] | None:
        """Return what the upload's batch asked for, None where it did not, or is gone."""
        return self.chosen.get(upload.batch_id) if upload.batch_id else None

    def end(self, outcome: Outcome) -> None:
        """Hand an outcome to whoever waits for it, if anybody does."""
        if not self.is_over:
            self.outcomes.put_nowait(outcome)


@dataclass(slots=True, eq=False)
class _Seat:
    """A place for one child, and what the child has been given and not answered; it works on the first."""

    child: Child | None = None
    given: deque[tuple[_Call, Upload]] = field(default_factory=deque)
    since: float = 0.0
    """When it began with the first of them."""
    pace_seconds: float = _FIRST_PACE_SECONDS
    """How long a file has taken of late."""
    is_dropped: bool = False
    """It was killed by us, for no fault of what it was given."""

    @property
    def room(self) -> int:
        """How many more it may be given."""
        return 1 + min(_MOST_AHEAD, int(_AHEAD_SECONDS / self.pace_seconds)) - len(self.given)


class Sandbox:
    """Looks into uploads, at most so many at once as there are `processes`. Whoever made it closes it.

    Children are started as they are needed, and stay. All that call `process` at once get an equal share of them.
    """

    def __init__(self, orders: Orders, *, processes: int, choices: Choices) -> None:
        self._orders: Final = orders
        self._processes: Final = processes
        self._choices: Final = choices
        self._calls: Final[deque[_Call]] = deque()
        self._seats: Final[dict[_Seat, asyncio.Task[None]]] = {}
        self._work: Final = asyncio.Event()
        self._is_closed = False

    async def process(self, uploads: Sequence[Upload]) -> AsyncGenerator[Outcome]:
        """Yield one outcome for each upload, each as soon as it is known, in any order.

        Closing the iterator early gives up the rest: children that have some of it are killed. Never raises for what a
        file or a child does; raises DatabaseUnavailableError where it cannot be read what the batches asked for.
        """
        chosen = await self._choices({upload.batch_id for upload in uploads if upload.batch_id})
        call = _Call(deque(uploads), chosen)
        self._calls.append(call)
        if self._is_closed:
            self._give_back(call)
        self._seat(len(uploads))
        self._work.set()
        try:
            for _ in uploads:
                yield await call.outcomes.get()
        finally:
            call.is_over = True
            self._calls.remove(call)
            for seat in self._seats:
                if any(given is call for given, _ in seat.given) and seat.child:
                    seat.is_dropped = True
                    seat.child.kill()

    async def close(self) -> None:
        """End the children. What they had, and what still waits, is given back. Idempotent."""
        self._is_closed = True
        for task in self._seats.values():
            task.cancel()
        if self._seats:
            await asyncio.wait(self._seats.values())
        self._seats.clear()
        for call in self._calls:
            self._give_back(call)

    def _seat(self, wanted: int) -> None:
        """Have a place for each file that is wanted at once, as far as there may be."""
        idle = sum(not seat.given for seat in self._seats)
        if self._is_closed:
            return
        for _ in range(min(wanted - idle, self._processes - len(self._seats))):
            seat = _Seat()
            self._seats[seat] = asyncio.create_task(self._run(seat), name="sandbox seat")

    async def _run(self, seat: _Seat) -> None:
        """Work until cancelled."""
        try:
            while not self._is_closed:
                try:
                    await self._turn(seat)
                except ChildTimeoutError:
                    seconds = self._orders.seconds
                    await self._lose(
                        seat, ProcessorTimeoutError(f"Looking into the file took more than {seconds:g} s.")
                    )
                except ChildError as error:
                    await self._lose(
                        seat, ProcessorCrashedError(f"The process that looked into the file died: {error}.")
                    )
                except Exception:  # a place must not be lost to a bug
                    log.exception("sandbox failed")
                    await self._lose(seat, ProcessorCrashedError("The process that looked into the file was lost."))
        finally:
            self._take_back(seat)
            await self._end(seat)

    async def _turn(self, seat: _Seat) -> None:
        """Give the child what it has room for, and take one answer. Raises ChildError."""
        if not seat.given and not any(call.waiting for call in self._calls):
            await self._rest(seat)
            return
        if seat.child is None or (seat.child.is_dead and not seat.given):
            await self._end(seat)
            seat.child = await self._start()
            return
        if not seat.given:
            seat.since = time.monotonic()
        while seat.room > 0 and (taken := self._take()):
            call, upload = taken
            seat.given.append(taken)
            seat.child.ask(upload, call.processors(upload))
        if not seat.given:
            return
        line = await seat.child.answer(self._orders.seconds)
        call, upload = seat.given.popleft()
        call.end(read_answer(upload, line))
        now = time.monotonic()
        seat.pace_seconds += (now - seat.since - seat.pace_seconds) / 4
        seat.since = now
        if line == OUT_OF_MEMORY:
            self._take_back(seat)
            await self._end(seat)

    async def _start(self) -> Child | None:
        try:
            return await Child.start(self._orders)
        except ChildError as error:
            log.error("a child cannot be started", reason=str(error))  # noqa: TRY400 - no bug of ours
            for call in self._calls:
                self._give_back(call)
            return None

    async def _rest(self, seat: _Seat) -> None:
        """Return when there is work, or the child has died."""
        self._work.clear()
        waits: list[asyncio.Task[object]] = [asyncio.create_task(self._work.wait())]
        if seat.child:
            waits.append(asyncio.create_task(seat.child.ended()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if seat.child and seat.child.is_dead:
            await self._end(seat)

    def _take(self) -> tuple[_Call, Upload] | None:
        """Return the next file, of each call in its turn."""
        for _ in range(len(self._calls)):
            call = self._calls[0]
            self._calls.rotate(-1)
            if call.waiting:
                return call, call.waiting.popleft()
        return None

    async def _lose(self, seat: _Seat, error: BoatloadError) -> None:
        """Replace the child; what it was working on is blamed, unless it was us who killed it."""
        if seat.given and not seat.is_dropped:
            call, upload = seat.given.popleft()
            log.warning("a file cost a child", upload_id=str(upload.id), code=error.code, reason=error.detail)
            call.end(Outcome(upload, error=Refusal.of(error), passing=True))
        self._take_back(seat)
        await self._end(seat)

    def _take_back(self, seat: _Seat) -> None:
        """Put what was not begun where it was, before all that waits."""
        while seat.given:
            call, upload = seat.given.pop()
            if not call.is_over:
                call.waiting.appendleft(upload)
        self._work.set()

    async def _end(self, seat: _Seat) -> None:
        child, seat.child = seat.child, None
        seat.is_dropped = False
        seat.pace_seconds = _FIRST_PACE_SECONDS
        if child:
            await to_its_end(child.end())  # nobody else knows of it any more

    def _give_back(self, call: _Call) -> None:
        while call.waiting:
            call.end(Outcome(call.waiting.popleft(), blameless=True))
