"""Requests that may be sent again: those with a key have one effect, and one answer."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from app.db.pool import Database
from app.domain.batch import Batch
from app.domain.errors import IdempotencyKeyInFlightError, IdempotencyKeyReusedError
from app.domain.idempotency import Answer, RequestKey
from app.domain.ids import Clock, Ids
from app.ingest.keyed import FINGERPRINT_BYTES, KeyedRequest
from app.repositories.idempotency_keys import Keyed
from app.repositories.unit_of_work import UnitOfWork, reading, unit_of_work


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept of a multipart request before."""

    sent: int = 0
    taken: int = 0
    """How many of the parts were not rejected."""
    results: tuple[bytes, ...] = ()
    """What is answered of them, a piece for each run."""
    batch_id: UUID | None = None
    batch: bytes | None = None
    """The batch as it is answered; None where there is none any more."""


class Idempotency:
    """Knows the keys of requests, each its owner's. All may raise DatabaseUnavailableError.

    The database decides whose effect counts, in the transaction of the effect. That the same key is in flight in this
    process is known without it.
    """

    def __init__(self, database: Database, *, lifetime: timedelta, clock: Clock, new_id: Ids) -> None:
        self._database: Final = database
        self._lifetime: Final = lifetime
        self._clock: Final = clock
        self._new_id: Final = new_id
        self._in_flight: Final[set[tuple[UUID, str]]] = set()

    async def once(self, key: RequestKey, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Do the work and keep its answer, both in one transaction; or return the answer that was kept before.

        All that `work` asks of the database becomes part of that transaction, so it must start no tasks that do, nor
        wait for others who do. What it raises leaves nothing behind, neither effect nor key.

        Raises IdempotencyKeyReusedError where the key was another request's, IdempotencyKeyInFlightError where the
        request is on its way already.
        """
        with self._holding(key):
            async with unit_of_work(self._database) as uow:
                known = await self._find(uow, key)
                if known:
                    if known.answer is None:
                        raise IdempotencyKeyReusedError
                    return known.answer
                with self._database.joined(uow.connection):
                    answer = await work()
                if not await uow.idempotency_keys.insert(self._new_id(), key, answer, self._expiry()):
                    raise IdempotencyKeyInFlightError  # another process was faster; this one's effect is undone
        return answer

    async def forget(self, key: RequestKey) -> None:
        """Take a key for one that was never sent, because what came of it is gone."""
        async with reading(self._database) as uow:
            known = await uow.idempotency_keys.find(key.owner, key.key)
            if known:
                await uow.idempotency_keys.delete(known.id)

    @asynccontextmanager
    async def keeping(self, key: RequestKey, write_batch: Callable[[Batch], bytes]) -> AsyncGenerator[KeyedRequest]:
        """Lend what is known of a multipart request while it is on its way; its receiver keeps more of it.

        Raises as `once` does.
        """
        with self._holding(key):
            async with reading(self._database) as uow:
                known = await self._find(uow, key)
                kept = await uow.idempotency_runs.fingerprints(known.id) if known else b""
            request = KeyedRequest(known.id if known else self._new_id(), key, self._expiry(), write_batch)
            if known:
                if known.batch_id is None:
                    raise IdempotencyKeyReusedError
                request.batch_id, request.opened, request.ended = known.batch_id, known.opened, known.body
                request.fingerprints = kept[: known.parts * FINGERPRINT_BYTES]
            yield request

    async def results(self, request: KeyedRequest) -> Kept:
        """Return what is answered of the parts that were kept before this request."""
        if not request.parts:
            return Kept()
        assert request.batch_id
        async with reading(self._database) as uow:
            runs = await uow.idempotency_runs.results(request.id, request.parts)
            batch = None if request.ended else await uow.batches.find(request.batch_id, request.key.owner)
        return Kept(
            sent=request.parts,
            taken=sum(taken for taken, _ in runs),
            results=tuple(results for _, results in runs),
            batch_id=request.batch_id,
            batch=request.write_batch(batch) if batch else request.ended,
        )

    def _expiry(self) -> datetime:
        return self._clock() + self._lifetime

    @contextmanager
    def _holding(self, key: RequestKey) -> Iterator[None]:
        name = key.owner, key.key
        if name in self._in_flight:
            raise IdempotencyKeyInFlightError
        self._in_flight.add(name)
        try:
            yield
        finally:
            self._in_flight.remove(name)

    async def _find(self, uow: UnitOfWork, key: RequestKey) -> Keyed | None:
        known = await uow.idempotency_keys.find(key.owner, key.key)
        if known and known.expires_at <= self._clock():
            await uow.idempotency_keys.delete(known.id)
            return None
        if known and known.fingerprint != key.fingerprint:
            raise IdempotencyKeyReusedError
        return known
