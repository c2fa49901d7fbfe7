"""Who a request is from: the one place that knows credentials of every kind."""

import asyncio
import time
from contextlib import suppress
from datetime import datetime
from typing import Final
from uuid import UUID

from app.auth import batch_tokens, keys
from app.auth.batch_tokens import BatchTokens
from app.auth.issuers import Issuers
from app.auth.keys import digest_of
from app.db.pool import Database
from app.domain.access import ANYBODY, Caller, CredentialKind
from app.domain.errors import DatabaseUnavailableError, UnauthorizedError
from app.domain.ids import Clock
from app.repositories.unit_of_work import reading

KNOWN_SECONDS: Final = 5.0
"""How long a credential that held is taken for one that holds; after a revocation it goes on no longer than that."""
_MOST_KNOWN: Final = 10_000
_NOTE_SECONDS: Final = 60.0
"""How often it is written down when keys were last used."""
_LONGEST: Final = 8 * 1024
"""Longer ones are not looked at."""


class Access:
    """Tells callers by their credentials. One per process, on one event loop.

    With `anonymous` everybody is let in. Without, those who come without a credential are let in only where
    `until_configured`, and only as long as no key was ever made.
    """

    def __init__(
        self,
        database: Database,
        tokens: BatchTokens,
        issuers: Issuers,
        *,
        anonymous: bool,
        until_configured: bool,
        clock: Clock,
    ) -> None:
        self._database: Final = database
        self._tokens: Final = tokens
        self._issuers: Final = issuers
        self._anonymous: Final = anonymous
        self._unconfigured = until_configured
        self._clock: Final = clock
        self._known: Final[dict[bytes, tuple[Caller, float]]] = {}
        self._asked: Final[dict[bytes, asyncio.Task[Caller]]] = {}
        self._used: dict[UUID, datetime] = {}

    async def admit(self, credential: str | None) -> Caller:
        """Return who comes with this credential, or with none.

        A credential that does not hold is refused, also where none is needed. Raises UnauthorizedError; where nobody
        can tell, DatabaseUnavailableError or IssuerUnavailableError.
        """
        if credential is None:
            if self._anonymous or self._unconfigured:
                return ANYBODY
            raise UnauthorizedError("Send a credential: Authorization: Bearer, and an API key or a token.")
        digest = digest_of(credential)
        caller, until = self._known.get(digest, (ANYBODY, 0.0))
        if time.monotonic() < until:
            return caller
        # However many come with one credential at a time, it is looked up once.
        task = self._asked.get(digest)
        if task is None:
            task = self._asked[digest] = asyncio.create_task(self._find(credential, digest), name="credential")
            task.add_done_callback(lambda done: self._forget(digest, done))
        return await asyncio.shield(task)

    async def look(self) -> None:
        """Learn whether there are keys by now: from the first one on, everybody needs one."""
        if self._unconfigured:
            async with reading(self._database) as uow:
                self._unconfigured = not await uow.api_keys.are_there()

    async def run(self, stop: asyncio.Event) -> None:
        """Look for the first key, and write down when keys were used, now and then until `stop` is set."""
        noted = time.monotonic()
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), KNOWN_SECONDS)
            with suppress(DatabaseUnavailableError):  # it is in the log; the next round may go better
                await self.look()
                if time.monotonic() > noted + _NOTE_SECONDS:
                    await self._note_uses()
                    noted = time.monotonic()
        with suppress(DatabaseUnavailableError):
            await self._note_uses()

    async def _find(self, credential: str, digest: bytes) -> Caller:
        if len(credential) > _LONGEST:
            raise UnauthorizedError("This is no credential of this service.")
        caller = await self._verify(credential, digest)
        seconds = KNOWN_SECONDS
        if caller.expires_at is not None:
            seconds = min(seconds, (caller.expires_at - self._clock()).total_seconds())
        if len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known.pop(digest, None)  # so that the oldest stays the first
        self._known[digest] = caller, time.monotonic() + seconds
        return caller

    async def _verify(self, credential: str, digest: bytes) -> Caller:
        if credential.startswith(batch_tokens.PREFIX):
            return self._tokens.read(credential)
        if credential.startswith(keys.PREFIX):
            return await self._find_key(digest)
        return await self._issuers.verify(credential)

    async def _find_key(self, digest: bytes) -> Caller:
        async with reading(self._database) as uow:
            key = await uow.api_keys.find(digest)
        if key is None:
            raise UnauthorizedError("There is no such key.")
        now = self._clock()
        if (state := key.state(now)) != "active":
            raise UnauthorizedError(f"This key is {state}. Ask for another one.")
        self._used[key.id] = now
        return Caller(key.user_id, frozenset(key.scopes), CredentialKind.KEY, str(key.id), expires_at=key.expires_at)

    def _forget(self, digest: bytes, done: "asyncio.Task[Caller]") -> None:
        del self._asked[digest]
        if not done.cancelled():
            done.exception()  # seen, also where whoever asked has gone away

    async def _note_uses(self) -> None:
        used, self._used = self._used, {}
        if not used:
            return
        try:
            async with reading(self._database) as uow:
                await uow.api_keys.note_uses(used)
        except DatabaseUnavailableError:
            self._used = used | self._used
            raise
