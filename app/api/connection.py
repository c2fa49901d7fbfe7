"""What uvicorn drops when a connection ends: bytes that had arrived, and the answer to who only closed their half.

A cut connection keeps the files that were whole, so what is in the server's buffer is handed out before the end is.
"""

from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_CYCLE: Final = "boatload.cycle"


class HalfOpenProtocol(HttpToolsProtocol):
    """Goes on answering a client that has said all it had to say and closed its half of the connection."""

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio.Protocol has it so; uvicorn narrows it
        """Keep the connection for as long as a whole request waits for its answer; else let it be closed."""
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn's annotation says
        if cycle is None or cycle.more_body or cycle.response_complete or getattr(cycle, "is_held", False):
            return False
        cycle.is_half_closed = True
        return True


class BodyBeforeEnd:
    """ASGI middleware around the application: the end of a connection comes behind the bytes that came before it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app: Final = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand out what uvicorn's cycle, whose method `receive` is, still holds when it speaks of the end."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cycle: Any = getattr(receive, "__self__", None)
        scope[_CYCLE] = cycle

        async def receive_all() -> Message:
            message = await receive()
            rest = bytes(getattr(cycle, "body", b"")) if message["type"] == "http.disconnect" else b""
            if rest:
                cycle.body = bytearray()
                return {"type": "http.request", "body": rest, "more_body": True}
            return message

        await self._app(scope, receive_all, send)


def hold(scope: Scope) -> bool:
    """Let the end of the client's half be the end of the connection from here on; return whether it still is whole.

    For answers that wait for something to happen: a client that went away and one that only closed its half look the
    same until something is sent.
    """
    cycle: Any = scope.get(_CYCLE)
    if cycle is not None:
        cycle.is_held = True
    return not getattr(cycle, "is_half_closed", False)


async def is_gone(receive: Receive) -> None:
    """Return once the client has gone away. The request's body must have been read, or be none."""
    while (await receive())["type"] != "http.disconnect":
        pass
