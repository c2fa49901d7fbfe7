"""`Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a POST that is sent again is answered as before."""

import hashlib
import re
from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message

from app.api.body import read_body, taking_turns
from app.api.dependencies import owner_of
from app.bootstrap import Services
from app.domain.errors import InvalidHeaderError
from app.domain.idempotency import Answer, RequestKey

HEADER: Final = "Idempotency-Key"
PARAMETER: Final = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": 255, "pattern": r"^[!#-~]([ -~]*[!-~])?$"},
    "description": "Your own name for this request, up to 255 characters. Sent again with the same key, it has no "
    "further effect and is answered as it was before.",
}
REFUSALS: Final = (400, 409, 413, 422)
"""What a request may be answered for its key."""
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_BARE: Final = re.compile(r'[^"].*')
_PRINTABLE: Final = re.compile(r"[\x20-\x7e]{1,255}")
_BODY_BYTES: Final = 16 << 20
"""The largest body of any route that reads one into memory; most take less, and say so themselves."""


def key_in(request: Request, *more: bytes) -> RequestKey | None:
    """Return the request's key and what tells it from others; None where it has no key.

    It is told by its method, path and query, and by `more`. A key is a string of RFC 9651 §3.3.3, or
    the same without quotes. Raises InvalidHeaderError.
    """
    values = request.headers.getlist(HEADER)
    if not values:
        return None
    value = values[0].strip(" \t")
    quoted = _QUOTED.fullmatch(value)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else value
    if len(values) > 1 or not (quoted or _BARE.fullmatch(value)) or not _PRINTABLE.fullmatch(key):
        raise InvalidHeaderError(f"{HEADER} is one key of 1 to 255 printable ASCII characters.", header=HEADER)
    scope = request.scope
    told = b"\n".join((request.method.encode(), scope["raw_path"], scope["query_string"], *more))
    return RequestKey(owner_of(scope), key, hashlib.sha256(told).digest())


class IdempotentRoute(APIRoute):
    """A route whose POST does what it does in transactions alone, and may come with a key."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Have a request with a key handled once, in one transaction with the record of its answer."""
        handle = super().get_route_handler()
        if "POST" not in (self.methods or ()):
            return handle

        async def once(request: Request) -> Response:
            async with taking_turns(request):
                return await (keyed(request) if HEADER in request.headers else handle(request))

        async def keyed(request: Request) -> Response:
            key_in(request)  # refused before its body is read
            body = await read_body(request, max_bytes=_BODY_BYTES)
            key = key_in(request, hashlib.sha256(body).digest())
            assert key

            async def work() -> Answer:
                return _answer(await handle(_with_body(request, body)))

            services: Services = request.app.state.services
            answer = await services.idempotency.once(key, work)
            return Response(answer.body, answer.status, dict(answer.headers))

        return once


def _with_body(request: Request, body: bytes) -> Request:
    """Return the request as one that can be read again."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(request.scope, receive)


def _answer(response: Response) -> Answer:
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    return Answer(response.status_code, headers, bytes(response.body))
