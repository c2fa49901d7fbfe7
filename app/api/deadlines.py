"""The body of a request as the application reads it: in time and within its limit, or broken off; and its end.

uvicorn waits for a body for ever, drops what had arrived when a connection ends, and reads to its end what is refused.
"""

import asyncio
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.connection import CYCLE
from app.domain.errors import RequestTooLargeError
from app.domain.request_errors import RequestTimeoutError

_TICK_SECONDS: Final = 0.001
"""uvloop counts in these, and a timer that rings before its time would ring again and again until it has come."""


class BodyDeadlines:
    """ASGI middleware around the application, right behind uvicorn.

    A body has at most `max_bytes`, whichever operation it is for.

    The clock runs only while the application waits for bytes: whoever is kept waiting by us is not late. It may wait
    `seconds` in all; each byte that comes wins 1 / `bytes_per_second` of that back.
    """

    def __init__(self, app: ASGIApp, *, seconds: float, bytes_per_second: float, max_bytes: int) -> None:
        self._app: Final = app
        self._seconds: Final = seconds
        self._bytes_per_second: Final = bytes_per_second
        self._max_bytes: Final = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request; `receive` is a method of uvicorn's cycle."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cycle: Any = getattr(receive, "__self__", None)
        scope[CYCLE] = cycle

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start" and cycle.more_body:
                cycle.keep_alive = False  # nobody reads the rest
            await send(message)

        body = _Body(cycle, receive, self._seconds, self._bytes_per_second, self._max_bytes)
        try:
            await self._app(scope, body.receive, send_on)
        finally:
            body.stop()


class _Body:
    """The body of one request, `receive` by `receive`."""

    def __init__(self, cycle: Any, receive: Receive, seconds: float, bytes_per_second: float, max_bytes: int) -> None:  # noqa: ANN401 - uvicorn's
        self._cycle: Final = cycle
        self._receive: Final = receive
        self._seconds: Final = seconds
        self._bytes_per_second: Final = bytes_per_second
        self._max_bytes: Final = max_bytes
        self._left = seconds
        self._loop: Final = asyncio.get_running_loop()
        self._due: float | None = None
        """When the client will be late, while it is waited for."""
        self._timer: asyncio.TimerHandle | None = None
        self._asked = False
        self._received = 0

    async def receive(self) -> Message:
        """Return the next bytes, and the end of a connection behind all bytes that came before it.

        Raises RequestTimeoutError for a client that is late, RequestTooLargeError for one that sends too much, or says
        so, and what the protocol found wrong with what came.
        """
        cycle = self._cycle
        if not self._asked:
            self._asked = True
            self._check_size(int(dict(cycle.scope["headers"]).get(b"content-length", b"0")))
        fault = getattr(cycle, "fault", None)
        if fault is not None and not cycle.body:
            raise fault
        awaited = cycle.more_body and not cycle.response_started and not cycle.message_event.is_set()
        message = await (self._receive_in_time() if awaited else self._receive())
        if message["type"] == "http.disconnect":
            return self._rest() or message
        self._received += len(message["body"])
        self._check_size(self._received)
        if message["body"] or not message["more_body"]:
            self._left = min(self._seconds, self._left + len(message["body"]) / self._bytes_per_second)
        elif self._left <= 0:
            raise RequestTimeoutError("The body came too slowly, or not at all.")
        return message

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise RequestTooLargeError(f"The body is over {self._max_bytes} bytes.", max_request_bytes=self._max_bytes)

    def stop(self) -> None:
        """End the clock."""
        if self._timer is not None:
            self._timer.cancel()

    async def _receive_in_time(self) -> Message:
        """Wait for bytes as long as the client has; then uvicorn is made to say that there are none."""
        began = self._loop.time()
        self._due = began + max(0, self._left)
        if self._timer is None:  # one that runs rings early at worst: when a client is late only ever moves on
            self._timer = self._loop.call_at(self._due + _TICK_SECONDS, self._ring)
        try:
            return await self._receive()
        finally:
            self._due = None
            self._left -= self._loop.time() - began

    def _ring(self) -> None:
        """Look whether the client is late now. A timer for each wait would cost more than a few bytes do."""
        self._timer = None
        if self._due is None:
            return
        if self._loop.time() < self._due:
            self._timer = self._loop.call_at(self._due + _TICK_SECONDS, self._ring)
        else:
            self._cycle.message_event.set()

    def _rest(self) -> Message | None:
        """Return what uvicorn still holds when it speaks of the end."""
        rest = bytes(self._cycle.body)
        self._cycle.body = bytearray()
        return {"type": "http.request", "body": rest, "more_body": True} if rest else None
