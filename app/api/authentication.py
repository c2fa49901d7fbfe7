"""Who a request is from: found out once, before anything of it is looked at, and before its body is read."""

from typing import Final
from urllib.parse import parse_qsl

from fastapi import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.dependencies import CALLER
from app.api.operations import OPERATION, Operation, Operations
from app.api.problems import answer_error
from app.api.reach import check_reach
from app.auth import audit
from app.auth.batch_tokens import PREFIX as TOKEN_PREFIX
from app.bootstrap import Services
from app.domain.access import AccessScope, Caller
from app.domain.errors import BoatloadError, ForbiddenError, UnauthorizedError

OPEN: Final = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})
"""Paths for everybody."""
_OPEN_BELOW: Final = "/docs/assets/"
FOLLOWED: Final = "follow_batch"
"""The operation that is for events: a browser's EventSource sends no header of ours."""
_SCHEME: Final = b"bearer "
_QUERIED: Final = b"access_token"


class Authentication:
    """ASGI middleware: puts Operation and Caller into the scope, or answers 401, 403, or 503 where nobody can tell.

    Such an answer ends the connection where a body may follow, which nobody reads.
    """

    def __init__(self, app: ASGIApp, *, operations: Operations) -> None:
        self._app: Final = app
        self._operations: Final = operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or refuse it. OPTIONS says what is spoken here, and to everybody."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        operation, ids = self._operations.find(method, path)
        scope[OPERATION], scope["path_params"] = operation, ids
        if method == "OPTIONS" or is_open(path):
            await self._app(scope, receive, send)
            return
        services: Services = scope["app"].state.services
        try:
            caller = scope[CALLER] = await services.access.admit(_credential(scope, operation))
            if operation is not None:
                check_scope(caller, operation.needs)
                if caller.batch_id is not None:
                    await check_reach(caller, operation.name, ids, services)
        except BoatloadError as error:
            await _refusal(error, scope)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def is_open(path: str) -> bool:
    """Say whether a path is for everybody."""
    return path in OPEN or path.startswith(_OPEN_BELOW)


def check_scope(caller: Caller, scope: AccessScope) -> None:
    """Return if the caller has the scope. Raises ForbiddenError."""
    if scope not in caller.scopes:
        raise ForbiddenError(f"This needs a credential with the scope {scope}.", scope=scope)


def _credential(scope: Scope, operation: Operation | None) -> str | None:
    """Return the one credential of a request, or None where it has none. Raises UnauthorizedError.

    RFC 6750 §2.1; more than one, or another scheme, is nothing that anybody could rely on.
    """
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if _QUERIED in scope["query_string"] and operation and operation.name == FOLLOWED:
        given += [_SCHEME + value for value in _queried(scope["query_string"])]
    if not given:
        return None
    if len(given) > 1 or given[0][: len(_SCHEME)].lower() != _SCHEME:
        raise UnauthorizedError("Send one credential, as Authorization: Bearer.")
    return bytes(given[0][len(_SCHEME) :]).strip().decode("latin-1")


def _queried(query: bytes) -> list[bytes]:
    """Return the tokens in a query (RFC 6750 §2.3). Raises UnauthorizedError for what lives too long to be in a URL."""
    # Of bytes it would make text and bytes again, and raise where they are not ASCII.
    fields = parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    given = [value for name, value in fields if name == _QUERIED.decode()]
    if any(not value.startswith(TOKEN_PREFIX) for value in given):
        raise UnauthorizedError("In a URL there may only be a token for a batch. Send others in a header.")
    return [value.encode("latin-1") for value in given]


def _refusal(error: BoatloadError, scope: Scope) -> Response:
    headers = {"Cache-Control": "no-store"}
    caller: Caller | None = scope.get(CALLER)
    audit.refuse(error.code, caller=caller, detail=error.detail)
    if isinstance(error, UnauthorizedError):
        # RFC 6750 §3.1: no error code for those who showed nothing.
        shown = any(name == b"authorization" for name, _ in scope["headers"]) or _QUERIED in scope["query_string"]
        headers["WWW-Authenticate"] = 'Bearer error="invalid_token"' if shown else "Bearer"
    elif isinstance(error, ForbiddenError):
        needed = error.facts.get("scope")
        headers["WWW-Authenticate"] = 'Bearer error="insufficient_scope"' + (f', scope="{needed}"' if needed else "")
    return answer_error(error, **headers)


def may_have_body(scope: Scope) -> bool:
    """Say whether a body may follow the head of a request."""
    fields = dict(scope["headers"])
    return fields.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in fields
