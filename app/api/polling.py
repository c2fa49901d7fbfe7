"""Answers to those who poll a batch, and who would rather wait than be told that nothing has changed."""

import asyncio
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID

from fastapi import Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import schemas
from app.api.connection import hold, is_gone
from app.api.dependencies import Context, matches
from app.bootstrap import Services
from app.domain.errors import BoatloadError
from app.progress.snapshot import Snapshot

RETRY_AFTER_SECONDS: Final = "1"
"""How soon to poll an unfinished batch again."""
PARAMETERS: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "If-None-Match",
            "in": "header",
            "schema": {"type": "string"},
            "description": "The ETag that you have; 304 while it is the batch's.",
        },
        {
            "name": "Prefer",
            "in": "header",
            "schema": {"type": "string"},
            "description": "`wait=N`: hold the answer until something has changed, N seconds at most (RFC 7240).",
        },
    ]
}
"""What OpenAPI is to say of a route that answers with `answer`."""


async def poll(services: Services, owner: UUID, batch_id: UUID, request: Request) -> ASGIApp | None:
    """Return the answer to a plain poll, which is asked most: 200 or 304, as `read_batch` answers; else None."""
    headers = dict(reversed(request.scope["headers"]))  # of several, the first counts
    if b"prefer" in headers:
        return None
    try:
        snapshot = await services.reader.get(owner, batch_id)
    except BoatloadError:
        return None
    status, fields = _head(snapshot, headers.get(b"if-none-match", b"").decode("latin-1"))
    body = b"" if status == HTTPStatus.NOT_MODIFIED else snapshot.once(schemas.snapshot_json)
    raw = [(name.encode(), value.encode()) for name, value in fields.items()]
    if body:
        raw += ((b"content-length", b"%d" % len(body)), (b"content-type", b"application/json"))

    async def send_it(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    return send_it


def answer(snapshot: Snapshot, request: Request, headers: dict[str, str] | None = None) -> Response:
    """Return the batch, or 304 to who has it (RFC 9110 §13.1.2)."""
    status, fields = _head(snapshot, request.headers.get("if-none-match"))
    fields |= headers or {}
    if status == HTTPStatus.NOT_MODIFIED:
        return Response(status_code=status, headers=fields)
    return Response(snapshot.once(schemas.snapshot_json), status, fields, "application/json")


async def newer(ctx: Context, snapshot: Snapshot, request: Request, seconds: int) -> Snapshot:
    """Return the batch once there is something new for this client, or when `seconds` have passed.

    New is a version other than that of its `If-None-Match`, or without one, than that of `snapshot`. Nobody waits in a
    final state, or while the service stops. Raises NotFoundError where the batch is deleted meanwhile, ClientDisconnect
    where nobody is left to hear the answer, and what is wrong with a body that came with the request.
    """
    known = request.headers.get("if-none-match")
    if snapshot.is_final or not seconds or (known is not None and not matches(known, f'"{snapshot.version}"')):
        return snapshot
    if not hold(request.scope):
        raise ClientDisconnect
    waiting = asyncio.create_task(ctx.services.feed.wait(snapshot, seconds=seconds))
    leaving = asyncio.create_task(is_gone(request.receive))
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            leaving.result()
            raise ClientDisconnect
        return waiting.result()
    finally:
        waiting.cancel()
        leaving.cancel()


def _head(snapshot: Snapshot, if_none_match: str | None) -> tuple[int, dict[str, str]]:
    """Return the status and the fields of an answer (RFC 9110 §13.1.2)."""
    etag = f'"{snapshot.version}"'
    fields = {"etag": etag, "cache-control": "private, no-cache"}
    if not snapshot.is_final:
        fields["retry-after"] = RETRY_AFTER_SECONDS
    return (HTTPStatus.NOT_MODIFIED if if_none_match and matches(if_none_match, etag) else HTTPStatus.OK), fields
