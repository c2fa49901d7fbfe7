"""A receiver of webhooks on a real socket that does whatever a test wants, and a deliverer that sends to it."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from standardwebhooks import Webhook

from app.db.pool import Database
from app.domain.batch import Tally, advance, new_batch
from app.domain.ids import Clock, new_id, utc_now
from app.repositories.unit_of_work import unit_of_work
from app.webhooks.deliverer import Deliverer
from app.webhooks.policy import DeliveryPolicy
from app.webhooks.sender import Resolver, Sender, trusted
from app.webhooks.service import WebhookService
from tests.support.services import OWNER, later

DAY: Final = timedelta(days=1)
QUICK: Final = DeliveryPolicy(DAY, first=timedelta(milliseconds=20), most=timedelta(milliseconds=40))
"""Everything as it is, but for waits that a test does not feel."""

Behaviour = Callable[["Message", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Message:
    """A request as it arrived."""

    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> Any:  # noqa: ANN401 - it is JSON
        """What a receiver with the public package gets; raises where the signature is not good."""
        return Webhook(secret).verify(self.body, self.headers)


def answering(status: int, *headers: str, body: bytes = b"") -> Behaviour:
    """Answer so, at once."""

    async def answer(_message: Message, writer: asyncio.StreamWriter) -> None:
        lines = (f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers)
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return answer


async def hang(_message: Message, _writer: asyncio.StreamWriter) -> None:
    """Say nothing, ever."""
    await asyncio.sleep(3600)


async def cut(_message: Message, writer: asyncio.StreamWriter) -> None:
    """Go away in the middle of the answer."""
    writer.write(b"HTTP/1.1 20")
    await writer.drain()


async def endless(_message: Message, writer: asyncio.StreamWriter) -> None:
    """Answer 200, with a body that never ends."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def babble(_message: Message, writer: asyncio.StreamWriter) -> None:
    """Never come to the end of the header, a line every now and then."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: 1\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def drip(_message: Message, writer: asyncio.StreamWriter) -> None:
    """Answer 200 at once, and its body so slowly that nobody waits for it."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


@dataclass(slots=True)
class Receiver:
    """What it was sent, in order; `behaviours` are used up one by one, the last one stays."""

    behaviours: list[Behaviour]
    port: int = 0
    scheme: str = "http"
    messages: list[Message] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    most_open: int = 0

    def url(self, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}/hook?token=s3cret"

    async def got(self, count: int, *, seconds: float = 20) -> "Sequence[Message]":
        """Return the messages once there are so many."""
        async with asyncio.timeout(seconds):
            while len(self.messages) < count:
                await asyncio.sleep(0.005)
        return self.messages

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                body = await reader.readexactly(int(headers["content-length"]))
                message = Message(head[0].split()[1], headers, body)
                self.messages.append(message)
                behaviour = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
                await behaviour(message, writer)
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def receiving(
    *behaviours: Behaviour, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """Listen on loopback; by default everything is answered 204. What is still open at the end is cut."""
    receiver = Receiver(list(behaviours) or [answering(204)], scheme="https" if tls else "http")
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        serving.add(task)
        try:
            await receiver.serve(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            serving.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        if serving:
            await asyncio.wait(list(serving))


@asynccontextmanager
async def sending(
    *, allow_private: bool = True, seconds: float = 5, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Sender]:
    """A sender with the real resolver."""
    resolver = Resolver()
    try:
        yield Sender(resolver, seconds=seconds, allow_private=allow_private, tls=tls or trusted())
    finally:
        resolver.close()


@asynccontextmanager
async def deliverer(
    database: Database,
    *,
    policy: DeliveryPolicy = QUICK,
    allow_private: bool = True,
    seconds: float = 5,
    keep: timedelta = DAY,
    clock: Clock = utc_now,
    run: bool = True,
) -> AsyncIterator[Deliverer]:
    """A deliverer as a worker runs it; with `run=False` the test drives it."""
    async with sending(allow_private=allow_private, seconds=seconds) as sender:
        one = Deliverer(database, sender, policy, keep=keep, clock=clock)
        stop = asyncio.Event()
        running = asyncio.create_task(one.run(sweep_seconds=3600, stop=stop)) if run else None
        try:
            yield one
        finally:
            stop.set()
            await one.end(seconds=0)
            if running:
                await asyncio.wait_for(running, 20)


def service(database: Database, *, allow_private: bool = True, clock: Clock = utc_now) -> WebhookService:
    return WebhookService(database, allow_private=allow_private, clock=clock, new_id=new_id)


async def deliveries(database: Database, owner: UUID = OWNER) -> "list[dict[str, Any]]":
    """The rows of the outbox, oldest first."""
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT * FROM webhook_deliveries WHERE user_id = $1 ORDER BY id", owner)
    return [dict(row) for row in rows]


async def settled(database: Database, *, count: int = 1, seconds: float = 20) -> "list[dict[str, Any]]":
    """The rows once so many are no longer pending."""
    async with asyncio.timeout(seconds):
        while True:
            rows = await deliveries(database)
            if sum(row["status"] != "pending" for row in rows) >= count:
                return rows
            await asyncio.sleep(0.01)


async def ended(database: Database, url: str | None = None, *, count: int = 1) -> list[UUID]:
    """End so many empty batches at once, each with that URL; return their ids."""
    now = utc_now()
    batches = [new_batch(new_id(), OWNER, now=now, expires_at=later(60)) for _ in range(count)]
    async with unit_of_work(database) as uow:
        for batch in batches:
            await uow.batches.insert(batch, webhook_url=url)
        await uow.batches.save([advance(batch, Tally(), now=utc_now(), seal=True) for batch in batches])
    return [batch.id for batch in batches]


def log_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    return list(json.loads(row["log"]))


async def logged(database: Database, attempts: int, *, seconds: float = 20) -> dict[str, Any]:
    """The one row once so many attempts have their result."""
    async with asyncio.timeout(seconds):
        while True:
            (row,) = await deliveries(database)
            if sum("duration_seconds" in entry for entry in log_of(row)) >= attempts:
                return row
            await asyncio.sleep(0.01)
