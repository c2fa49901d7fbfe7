"""A batch as server-sent events (WHATWG HTML §9.2): snapshots, changed uploads, and an end."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from app.api import schemas
from app.api.connection import hold
from app.api.dependencies import BatchId, Ctx
from app.api.openapi import responses
from app.domain.upload import Upload
from app.progress.position import Position, parse_position
from app.progress.snapshot import Change, Snapshot

router: Final = APIRouter(prefix="/v1/batches", tags=["batches"])

_RETRY: Final = format_sse_event(retry=1000)
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_EVENT: Final = {
    "type": "object",
    "properties": {
        "event": {"enum": ["batch", "upload"]},
        "id": {"type": "string", "description": "Send it back as Last-Event-ID to go on from there."},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "retry": {"type": "integer"},
    },
}
_EVENTS: Final[dict[int, dict[str, Any]]] = {
    200: {
        "description": "`batch` events hold a Batch, `upload` events an Upload; ends behind the final state",
        "content": {"text/event-stream": {"itemSchema": _EVENT}},
    },
    204: {"description": "The batch is final, and you have its final state: there is nothing to follow"},
}


class _Events(EventSourceResponse):
    """Closes what it streams from at once when it ends, however it ends."""

    body_iterator: AsyncGenerator[bytes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the end, or until the client goes away."""
        async with aclosing(self.body_iterator):
            await super().__call__(scope, receive, send)


@router.get("/{batch_id}/events", response_class=Response, responses=responses(404, 422, also=_EVENTS))
async def follow_batch(
    ctx: Ctx,
    batch_id: BatchId,
    request: Request,
    *,
    last_event_id: Annotated[
        str | None, Header(description="The id of the last event you have; what changed since is sent. 0: everything.")
    ] = None,
    last_event_id_query: Annotated[
        str | None,
        Query(alias="last_event_id", description="The same, for an EventSource that begins; the header wins."),
    ] = None,
    uploads: Annotated[bool, Query(description="Whether changed uploads are sent, or snapshots alone.")] = True,
) -> Response:
    """Follow a batch: server-sent events, from a snapshot on until its final state."""
    text = last_event_id or last_event_id_query
    since = parse_position(text) if text else None
    snapshot = await ctx.services.reader.get(ctx.owner, batch_id)
    if since == snapshot.position and snapshot.is_final:
        return Response(status_code=204, headers=_HEADERS)
    if since and since > snapshot.position:
        since = None  # of another life of the database: what it stood for is not known here
    if not hold(request.scope):
        raise ClientDisconnect
    steps = ctx.services.feed.follow(snapshot, since, uploads=uploads)
    return _Events(_encoded(steps), headers=_HEADERS)


async def _encoded(steps: AsyncGenerator[Change | None]) -> AsyncGenerator[bytes]:
    async with aclosing(steps):
        yield _RETRY
        async for step in steps:
            yield _chunk(step) if step else KEEPALIVE_COMMENT


def _chunk(step: Change) -> bytes:
    """Return the events of a step in one piece, which is made once for all followers who get it."""
    if step.uploads or not step.snapshot:
        return step.once(_step_events)
    return step.snapshot.once(_batch_event)


def _step_events(step: Change) -> bytes:
    events = [_upload_event(upload) for upload in step.uploads]
    if step.snapshot:
        events.append(step.snapshot.once(_batch_event))
    return b"".join(events)


def _batch_event(snapshot: Snapshot) -> bytes:
    return format_sse_event(
        data_str=snapshot.once(schemas.snapshot_json).decode(), event="batch", id=str(snapshot.position)
    )


def _upload_event(upload: Upload) -> bytes:
    data = schemas.UPLOAD.dump_json(schemas.upload_out(upload)).decode()
    return format_sse_event(data_str=data, event="upload", id=str(Position(upload.batch_version, upload.id)))
