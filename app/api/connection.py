"""What uvicorn drops when a connection ends: bytes that had arrived, and the answer to who only closed their half.

A cut connection keeps the files that were whole, so what is in the server's buffer is handed out before the end is.
"""

from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class HalfOpenProtocol(HttpToolsProtocol):
    """Goes on answering a client that has said all it had to say and closed its half of the connection."""

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio.Protocol has it so; uvicorn narrows it
        """Keep the connection for as long as a whole request waits for its answer; else let it be closed."""
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn's annotation says
        return cycle is not None and not cycle.more_body and not cycle.response_complete


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

        async def receive_all() -> Message:
            message = await receive()
            rest = bytes(getattr(cycle, "body", b"")) if message["type"] == "http.disconnect" else b""
            if rest:
                cycle.body = bytearray()
                return {"type": "http.request", "body": rest, "more_body": True}
            return message

        await self._app(scope, receive_all, send)
