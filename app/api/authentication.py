"""Who a request is from: found out once, before anything of it is looked at, and before its body is read."""

from typing import Final

from fastapi import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import answer_error
from app.bootstrap import Services
from app.domain.access import AccessScope, Caller
from app.domain.errors import BoatloadError, ForbiddenError, UnauthorizedError

CALLER: Final = "boatload.caller"
"""Where in the scope of a request its Caller is."""
OPEN: Final = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})
"""Paths for everybody."""
_OPEN_BELOW: Final = "/docs/assets/"
_READING: Final = frozenset({"GET", "HEAD"})
_WEBHOOKS: Final = "/v1/webhooks"
_SCHEME: Final = b"bearer "


class Authentication:
    """ASGI middleware: puts the Caller into the scope, or answers 401, 403, or 503 where nobody can tell.

    Such an answer ends the connection where a body may follow, which nobody reads.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app: Final = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or refuse it. OPTIONS says what is spoken here, and to everybody."""
        if scope["type"] != "http" or scope["method"] == "OPTIONS" or is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        services: Services = scope["app"].state.services
        try:
            caller = await services.access.admit(_credential(scope))
            check_scope(caller, needed_scope(scope["method"], scope["path"]))
        except BoatloadError as error:
            await _refusal(error, scope)(scope, receive, send)
            return
        scope[CALLER] = caller
        await self._app(scope, receive, send)


def is_open(path: str) -> bool:
    """Say whether a path is for everybody."""
    return path in OPEN or path.startswith(_OPEN_BELOW)


def needed_scope(method: str, path: str) -> AccessScope:
    """Return the scope that a request needs."""
    if path == _WEBHOOKS or path.startswith(_WEBHOOKS + "/"):
        return AccessScope.ADMIN
    return AccessScope.READ if method in _READING else AccessScope.WRITE


def check_scope(caller: Caller, scope: AccessScope) -> None:
    """Return if the caller has the scope. Raises ForbiddenError."""
    if scope not in caller.scopes:
        raise ForbiddenError(f"This needs a credential with the scope {scope}.", scope=scope)


def _credential(scope: Scope) -> str | None:
    """Return the one credential of a request, or None where it has none. Raises UnauthorizedError.

    RFC 6750 §2.1; more than one, or another scheme, is nothing that anybody could rely on.
    """
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if not given:
        return None
    if len(given) > 1 or given[0][: len(_SCHEME)].lower() != _SCHEME:
        raise UnauthorizedError("Send one credential, as Authorization: Bearer.")
    return bytes(given[0][len(_SCHEME) :]).strip().decode("latin-1")


def _refusal(error: BoatloadError, scope: Scope) -> Response:
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, UnauthorizedError):
        # RFC 6750 §3.1: no error code for those who showed nothing.
        shown = any(name == b"authorization" for name, _ in scope["headers"])
        headers["WWW-Authenticate"] = 'Bearer error="invalid_token"' if shown else "Bearer"
    elif isinstance(error, ForbiddenError):
        needed = error.facts.get("scope")
        headers["WWW-Authenticate"] = 'Bearer error="insufficient_scope"' + (f', scope="{needed}"' if needed else "")
    return answer_error(error, **headers)


def may_have_body(scope: Scope) -> bool:
    """Say whether a body may follow the head of a request."""
    fields = dict(scope["headers"])
    return fields.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in fields
