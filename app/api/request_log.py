"""A request's id, in every log line of it and in the answer; and one line when it is done."""

import asyncio
import os
import re
import time
from itertools import count
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.connection import cut
from app.api.problems import answer, describe

log: Final = structlog.get_logger("boatload.http")

_HEADER: Final = b"x-request-id"
_ACCEPTABLE: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
STOPPING: Final = describe(
    "stopping",
    "The service was stopped before this request came to its end. What was whole is kept; send the rest again.",
)
FAILED: Final = describe(
    "internal-error",
    "Something went wrong here. The log of the service says what, under this request's id.",
)
_QUIET: Final = frozenset({"/healthz", "/readyz"})


class RequestLog:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app: Final = app
        self._process: Final = os.urandom(8).hex().encode()
        self._numbers: Final = count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the client's `X-Request-Id` where it is fit for a log, else make one."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == _HEADER), b"")
        request_id = given if _ACCEPTABLE.fullmatch(given) else b"%b%016x" % (self._process, next(self._numbers))
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id.decode())
        started = time.perf_counter()
        status = 0

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (_HEADER, request_id)]}
            await send(message)

        try:
            await self._app(scope, receive, tagged)
        except asyncio.CancelledError:
            # The server stops, and has waited for this request as long as it was told to.
            if not status:
                await answer(STOPPING, {"Connection": "close"})(scope, receive, tagged)
            elif not cut(scope):
                raise
        except Exception:  # nobody behind this knows the request's id, or what a page needs to read an answer
            if status:
                raise  # uvicorn says so in the log, and cuts the answer short
            log.exception("unexpected error", method=scope["method"], path=scope["path"])
            await answer(FAILED, {"Connection": "close"})(scope, receive, tagged)
        finally:
            if scope["path"] not in _QUIET:
                seconds = round(time.perf_counter() - started, 4)
                log.info("request", method=scope["method"], path=scope["path"], status=status, seconds=seconds)
