"""One line in the audit log for each request that changes something, whatever came of it."""

import asyncio
from http import HTTPStatus
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.dependencies import caller_of
from app.api.operations import OPERATION, Operation
from app.auth import audit

NOTED: Final = "boatload.noted"
"""Where in the scope of a request there is more to note: a dict of ids, put there by its route."""
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_LOCATION: Final = b"location"


class AuditTrail:
    """ASGI middleware, where the caller is known. It notes the operation and its ids; not what a client wrote."""

    def __init__(self, app: ASGIApp) -> None:
        self._app: Final = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and note it when it is over."""
        if scope["type"] != "http" or scope["method"] in _READING:
            await self._app(scope, receive, send)
            return
        status, made = 0, b""

        async def noticed(message: Message) -> None:
            nonlocal status, made
            if message["type"] == "http.response.start":
                status = message["status"]
                if status < HTTPStatus.BAD_REQUEST:
                    made = next((value for name, value in message.get("headers", ()) if name == _LOCATION), b"")
            await send(message)

        try:
            await self._app(scope, receive, noticed)
        except asyncio.CancelledError:
            status = status or 503  # which the log of requests answers when the server stops
            raise
        except Exception:  # raised on: what was done is noted whatever came of it
            status = status or 500  # which the log of requests answers to a fault
            raise
        finally:
            operation: Operation | None = scope[OPERATION]
            if operation:
                ids: dict[str, Any] = {
                    name: value for name, value in scope["path_params"].items() if name.endswith("_id")
                }
                if made:
                    ids["made"] = made.decode("latin-1")
                audit.record(operation.name, caller_of(scope), status=status, **ids, **scope.get(NOTED, {}))
