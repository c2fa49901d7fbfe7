"""What every handler starts from: the services, the owner, and ids out of paths."""

from dataclasses import dataclass
from typing import Annotated, Final
from uuid import UUID

from fastapi import Depends, Path, Query, Request, Response
from starlette.types import Scope

from app.api.cursors import Cursors
from app.api.forwarded import public_base
from app.bootstrap import Services
from app.domain.access import ANYBODY, Caller
from app.domain.errors import NotFoundError
from app.domain.limits import PAGE_DEFAULT, PAGE_MAX

JSON: Final = "application/json"
CALLER: Final = "boatload.caller"
"""Where in the scope of a request its Caller is."""


@dataclass(frozen=True, slots=True)
class Context:
    """One request's view of the service."""

    services: Services
    cursors: Cursors
    caller: Caller
    base: str
    """What comes before the path in a URL of ours; empty where it is relative."""

    @property
    def owner(self) -> UUID:
        """Whose batches and uploads it is about."""
        return self.caller.owner


# Dependencies are coroutines: the framework calls plain functions in a thread, which takes longer than most handlers.
async def _context(request: Request) -> Context:
    services: Services = request.app.state.services
    base = public_base(request.headers, trust_proxy=request.app.state.trust_proxy)
    return Context(services=services, cursors=request.app.state.cursors, caller=caller_of(request.scope), base=base)


def caller_of(scope: Scope) -> Caller:
    """Return who makes a request. On the paths that are for everybody, anybody does."""
    caller: Caller = scope.get(CALLER, ANYBODY)
    return caller


def owner_of(scope: Scope) -> UUID:
    """Return whose request it is."""
    return caller_of(scope).owner


def identity(text: str) -> UUID:
    """Return the id, or raise NotFoundError: what is no id is not there.

    In the one form that ids have: UUID() takes others, with spaces or digits of any script, which no header may hold.
    """
    try:
        found = UUID(text)
    except ValueError:
        raise NotFoundError from None
    if str(found) != text.lower():
        raise NotFoundError
    return found


async def _batch_id(batch_id: Annotated[str, Path(json_schema_extra={"format": "uuid"})]) -> UUID:
    return identity(batch_id)


async def _upload_id(upload_id: Annotated[str, Path(json_schema_extra={"format": "uuid"})]) -> UUID:
    return identity(upload_id)


Ctx = Annotated[Context, Depends(_context)]
BatchId = Annotated[UUID, Depends(_batch_id)]
UploadId = Annotated[UUID, Depends(_upload_id)]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX, description="Most items on the page.")]
Cursor = Annotated[str | None, Query(max_length=200, description="From the page before.")]
DEFAULT_LIMIT: Final = PAGE_DEFAULT


def tagged(body: bytes, version: int, request: Request, status: int = 200, **headers: str) -> Response:
    """Return a JSON answer with its ETag, or 304 where `If-None-Match` has it already (RFC 9110 §13.1.2)."""
    etag = f'"{version}"'
    fields = {"ETag": etag, "Cache-Control": "private, no-cache"} | headers
    if request.method == "GET" and matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=fields)
    return Response(body, status, fields, JSON)


def matches(if_none_match: str | None, etag: str) -> bool:
    """Say whether a client has it already (RFC 9110 §13.1.2, weak comparison)."""
    tags = {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")}
    return etag in tags or "*" in tags


def page(body: bytes, request: Request, next_cursor: str | None) -> Response:
    """Return a page of a list, with the `Link` to the next one (RFC 8288)."""
    headers = {"Cache-Control": "private, no-cache"}
    if next_cursor:
        # A credential that came with the URL (RFC 6750 §2.3) is not handed on.
        url = request.url.remove_query_params("access_token").include_query_params(cursor=next_cursor)
        headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
    return Response(body, 200, headers, JSON)
