"""Sends what the outbox holds: at least once, each message by one process at a time, a slow receiver beside the others.

No transaction is open while anything is sent. A message is claimed under a lease; should this process be lost, it comes
due again with its old id when the lease ends.
"""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

import structlog
from standardwebhooks import Webhook

from app.db.pool import Database
from app.domain.errors import BoatloadError
from app.domain.ids import Clock
from app.domain.webhook import Attempt, DeliveryStatus, SigningSecrets, new_secret
from app.repositories.unit_of_work import UnitOfWork, reading, unit_of_work
from app.repositories.webhook_deliveries import Claimed
from app.webhooks.policy import DeliveryPolicy, Verdict
from app.webhooks.sender import Sender

log: Final = structlog.get_logger("boatload.webhooks")

AT_ONCE: Final = 64
"""Most messages that one process sends at a time."""
PER_RECEIVER: Final = 4
"""Most of them to one receiver."""
POLL_SECONDS: Final = 0.5
"""How long a message may lie before an idle process sees it."""
_LEASE_MARGIN: Final = timedelta(seconds=15)
"""Beyond the longest attempt, for writing down how it ended."""
_LAST_SECONDS: Final = 5
"""How long attempts may go on once the process is told to stop."""
_CHUNK: Final = 1000
_GONE: Final = "the receiver answered 410 to another message"


class Deliverer:
    """One per process that works; any number of processes. `keep` is how long messages that ended are kept."""

    def __init__(
        self,
        database: Database,
        sender: Sender,
        policy: DeliveryPolicy,
        *,
        keep: timedelta,
        clock: Clock,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._database: Final = database
        self._sender: Final = sender
        self._policy: Final = policy
        self._keep: Final = keep
        self._clock: Final = clock
        self._chance: Final = chance
        self._lease: Final = timedelta(seconds=sender.seconds) + _LEASE_MARGIN
        self._sending: Final[dict[asyncio.Task[None], str]] = {}
        self._wake: Final = asyncio.Event()

    async def run(self, *, sweep_seconds: float, stop: asyncio.Event) -> None:
        """Deliver until `stop` is set, and every so many seconds delete what is old.

        What is being sent at the end has a moment; what is cut then is sent again when its lease ends.
        """
        await asyncio.gather(self._deliver_until(stop), self._sweep_until(stop, sweep_seconds))

    async def _deliver_until(self, stop: asyncio.Event) -> None:
        stopping = asyncio.ensure_future(stop.wait())
        stopping.add_done_callback(lambda _done: self._wake.set())
        try:
            while not stop.is_set():
                self._wake.clear()
                if not await _survived(self.deliver_due):
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)
        finally:
            stopping.cancel()
            await self.end()

    async def _sweep_until(self, stop: asyncio.Event, seconds: float) -> None:
        while not stop.is_set():
            await _survived(self.delete_old)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), seconds)

    async def deliver_due(self) -> int:
        """Begin to send what is due and fits beside what is being sent; return how many that are.

        Raises DatabaseUnavailableError.
        """
        free = AT_ONCE - len(self._sending)
        if not free:
            return 0
        async with reading(self._database) as uow:
            claimed = await uow.webhook_deliveries.claim(
                lease=self._lease, limit=free, per_receiver=PER_RECEIVER, busy=Counter(self._sending.values())
            )
            secrets = {
                owner: await uow.webhook_secrets.get_or_add(owner, new_secret(os.urandom))
                for owner in {one.user_id for one in claimed}
            }
        for one in claimed:
            task = asyncio.create_task(self._deliver(one, secrets[one.user_id]))
            self._sending[task] = one.receiver
            task.add_done_callback(self._done)
        return len(claimed)

    async def end(self, *, seconds: float = _LAST_SECONDS) -> None:
        """Wait for what is being sent; after so many seconds, cut it."""
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def delete_old(self) -> int:
        """Delete messages that ended long ago, and return how many. Raises DatabaseUnavailableError."""
        deleted = 0
        while True:
            async with reading(self._database) as uow:
                gone = await uow.webhook_deliveries.delete_old(self._keep, limit=_CHUNK)
            deleted += gone
            if gone < _CHUNK:
                break
        if deleted:
            log.info("old webhook deliveries deleted", deliveries=deleted)
        return deleted

    def _done(self, task: "asyncio.Task[None]") -> None:
        del self._sending[task]
        self._wake.set()

    async def _deliver(self, claimed: Claimed, secrets: SigningSecrets) -> None:
        at, began = self._clock(), time.monotonic()
        try:
            answer = await self._sender.send(claimed.url, sign(claimed, secrets, at), claimed.payload.encode())
            attempt = Attempt(
                claimed.attempts, at, round(time.monotonic() - began, 3), answer.status_code, answer.error
            )
            verdict = self._policy.judge(
                answer,
                failures=claimed.failures,
                begun_at=claimed.begun_at,
                now=self._clock(),
                chance=self._chance,
            )
            if await self._record(claimed, attempt, verdict):
                _report(claimed, attempt, verdict)
        except BoatloadError as error:
            log.warning("webhook attempt not recorded", delivery_id=str(claimed.id), code=error.code)
        except Exception:  # the others go on; this one comes back when its lease ends
            log.exception("webhook attempt broke", delivery_id=str(claimed.id))

    async def _record(self, claimed: Claimed, attempt: Attempt, verdict: Verdict) -> bool:
        """Write the result down; where a webhook's receiver is gone, nothing of what waits for it is sent any more."""

        async def record(uow: UnitOfWork) -> bool:
            return await uow.webhook_deliveries.record(
                claimed, attempt, verdict.status, wait=verdict.wait, reason=verdict.reason
            )

        if claimed.endpoint_id is None or not verdict.gone:
            async with reading(self._database) as uow:
                return await record(uow)
        async with unit_of_work(self._database) as uow:
            # Its row is locked first: of those who do this for one endpoint, each waits for the one before.
            exists = await uow.webhook_endpoints.disable(claimed.endpoint_id, self._clock())
            current = await record(uow)
            if exists:
                await uow.webhook_deliveries.give_up(claimed.endpoint_id, _GONE)
        return current


def sign(claimed: Claimed, secrets: SigningSecrets, at: datetime) -> dict[str, str]:
    """Return the fields that go with a message sent at that moment, signed with every secret that is in use."""
    message_id = str(claimed.id)
    signatures = [Webhook(one).sign(message_id, at, claimed.payload) for one in secrets.usable(at)]
    return {
        "Content-Type": "application/json",
        "User-Agent": "Boatload",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _report(claimed: Claimed, attempt: Attempt, verdict: Verdict) -> None:
    """Log an outcome, without the URL: it may hold a secret of the receiver's."""
    facts = {"delivery_id": str(claimed.id), "receiver": claimed.receiver, "attempt": attempt.number}
    if verdict.status is DeliveryStatus.DELIVERED:
        log.info("webhook delivered", **facts, seconds=attempt.duration_seconds)
    elif verdict.status is DeliveryStatus.GIVEN_UP:
        log.warning("webhook given up", **facts, reason=verdict.reason)
    else:
        wait = round(verdict.wait.total_seconds(), 1)
        log.info("webhook attempt failed", **facts, status=attempt.status_code, error=attempt.error, again_in=wait)


async def _survived(step: Callable[[], Awaitable[int]]) -> int:
    try:
        return await step()
    except BoatloadError as error:
        log.warning("webhooks wait for the database", code=error.code)
    except Exception:  # the loop must survive; the next step tries again
        log.exception("webhook step failed")
    return 0
