"""What holds for every tus request and answer, whichever route or error it comes to (tus 1.0.0, "Headers")."""

import re
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.tus_headers import PATH, VERSION

_METHODS: Final = re.compile(rb"[A-Z]{1,16}")


class TusEnvelope:
    """ASGI middleware: `X-HTTP-Method-Override` is the method, and every answer says `Tus-Resumable`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app: Final = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass other requests on as they are."""
        if scope["type"] != "http" or not (scope["path"] == PATH or scope["path"].startswith(PATH + "/")):
            await self._app(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(raw=message.setdefault("headers", []))["Tus-Resumable"] = VERSION
            await send(message)

        method = next((value for name, value in scope["headers"] if name == b"x-http-method-override"), b"")
        if _METHODS.fullmatch(method):
            scope = {**scope, "method": method.decode()}
        await self._app(scope, receive, marked)
