"""`/v1/batches`: open, read, list, seal, cancel, retry, delete, and list their uploads."""

from datetime import timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from app.api import polling, schemas
from app.api.body import describe_body, read_json
from app.api.cursors import AFTER_NONE, BEFORE_ALL
from app.api.dependencies import DEFAULT_LIMIT, BatchId, Ctx, Cursor, Limit, page, tagged
from app.api.idempotency import IdempotentRoute
from app.api.openapi import NOT_MODIFIED, responses
from app.api.prefer import wait_seconds
from app.domain.batch import FINAL_BATCH, Batch, BatchStatus
from app.domain.upload import Upload, UploadStatus
from app.progress.position import Position

router: Final = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=IdempotentRoute)

_RETRY_BODY_BYTES: Final = 1 << 20
"""Room for more ids than are taken, so that too many are answered as such."""


@router.post(
    "",
    status_code=201,
    response_model=schemas.Batch,
    responses=responses(413, 415, 422),
    openapi_extra=describe_body(schemas.NewBatch),
)
async def open_batch(ctx: Ctx, request: Request) -> Response:
    """Open an empty batch."""
    new = await read_json(request, schemas.NewBatch)
    batch = await ctx.services.batches.open(
        ctx.owner,
        label=new.label,
        expected_uploads=new.expected_uploads,
        metadata=dict(new.metadata),
        expires_in=timedelta(seconds=new.expires_in_seconds) if new.expires_in_seconds else None,
        webhook_url=new.webhook_url,
        processors=new.processors,
    )
    return _answer(batch, request, 201, Location=f"/v1/batches/{batch.id}")


@router.get("", response_model=schemas.BatchPage, responses=responses(422))
async def list_batches(
    ctx: Ctx,
    request: Request,
    status: Annotated[BatchStatus | None, Query(description="Only those in this state.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """List your batches, newest first."""
    scope = f"batches {ctx.owner} {status}"
    before = ctx.cursors.read(scope, cursor) if cursor else BEFORE_ALL
    found = await ctx.services.batches.list_page(ctx.owner, status=status, before=before, limit=limit + 1)
    last = found[limit - 1] if len(found) > limit else None
    next_cursor = ctx.cursors.make(scope, last.created_at, last.id) if last else None
    items = [schemas.batch_out(batch) for batch in found[:limit]]
    return page(schemas.BATCH_PAGE.dump_json(schemas.BatchPage(items, next_cursor)), request, next_cursor)


@router.get(
    "/{batch_id}",
    response_model=schemas.Batch,
    responses=responses(404, also=NOT_MODIFIED),
    openapi_extra=polling.PARAMETERS,
)
async def read_batch(ctx: Ctx, batch_id: BatchId, request: Request) -> Response:
    """Read the exact account of a batch. With `If-None-Match`, 304 while nothing has changed.

    With `Prefer: wait=N` the answer comes when something has changed, or after N seconds (60 at the most).
    """
    snapshot = await ctx.services.reader.get(ctx.owner, batch_id)
    seconds = wait_seconds(request.headers.getlist("prefer"))
    if seconds is None:
        return polling.answer(snapshot, request)
    snapshot = await polling.newer(ctx, snapshot, request, seconds)
    return polling.answer(snapshot, request, {"Preference-Applied": f"wait={seconds}"})


@router.get("/{batch_id}/uploads", response_model=schemas.UploadPage, responses=responses(404, 422))
async def list_uploads(
    ctx: Ctx,
    batch_id: BatchId,
    request: Request,
    *,
    status: Annotated[UploadStatus | None, Query(description="Only those in this state.")] = None,
    changed_since: Annotated[
        int | None,
        Query(ge=0, le=2**63 - 1, description="Only those that changed after this version, in the order they did."),
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """List the uploads of a batch, in the order they came; with `changed_since`, those that changed.

    With `changed_since` and `status` together, pages may be short or empty and still not be the last.
    """
    if changed_since is not None:
        return await _list_changed(
            ctx, batch_id, request, status=status, since=changed_since, limit=limit, cursor=cursor
        )
    scope = f"uploads {ctx.owner} {batch_id} {status}"
    _, after = ctx.cursors.read(scope, cursor) if cursor else AFTER_NONE
    found = await ctx.services.uploads.list_page(ctx.owner, batch_id, status=status, after=after, limit=limit + 1)
    last = found[limit - 1] if len(found) > limit else None
    next_cursor = ctx.cursors.make(scope, last.created_at, last.id) if last else None
    return _upload_page(found[:limit], next_cursor, None, request)


@router.post("/{batch_id}/seal", response_model=schemas.Batch, responses=responses(404, 409))
async def seal_batch(ctx: Ctx, batch_id: BatchId, request: Request) -> Response:
    """Say that nothing more will be added. The batch finishes when all in it is processed."""
    return _answer(await ctx.services.batches.seal(ctx.owner, batch_id), request)


@router.post("/{batch_id}/cancel", response_model=schemas.Batch, responses=responses(404, 409))
async def cancel_batch(ctx: Ctx, batch_id: BatchId, request: Request) -> Response:
    """Cancel what is unfinished. The batch takes nothing more."""
    return _answer(await ctx.services.batches.cancel(ctx.owner, batch_id), request)


@router.post(
    "/{batch_id}/retry",
    response_model=schemas.Batch,
    responses=responses(404, 409, 413, 415, 422),
    openapi_extra=describe_body(schemas.Retry),
)
async def retry_batch(ctx: Ctx, batch_id: BatchId, request: Request) -> Response:
    """Process again what failed, or those of the failed that are named. Files whose bytes were refused stay failed."""
    retry = await read_json(request, schemas.Retry, max_bytes=_RETRY_BODY_BYTES)
    return _answer(await ctx.services.batches.retry(ctx.owner, batch_id, retry.upload_ids), request)


@router.delete("/{batch_id}", status_code=204, response_class=Response, responses=responses(404, 422))
async def delete_batch(
    ctx: Ctx,
    batch_id: BatchId,
    uploads: Annotated[
        Literal["keep", "delete"], Query(description="`delete` takes its uploads along; else they outlive it.")
    ] = "keep",
) -> Response:
    """Delete a batch."""
    await ctx.services.batches.delete(ctx.owner, batch_id, with_uploads=uploads == "delete")
    return Response(status_code=204)


def _answer(batch: Batch, request: Request, status: int = 200, **headers: str) -> Response:
    if batch.status not in FINAL_BATCH:
        headers["Retry-After"] = polling.RETRY_AFTER_SECONDS
    return tagged(schemas.BATCH.dump_json(schemas.batch_out(batch)), batch.version, request, status, **headers)


async def _list_changed(
    ctx: Ctx,
    batch_id: UUID,
    request: Request,
    *,
    status: UploadStatus | None,
    since: int,
    limit: int,
    cursor: str | None,
) -> Response:
    scope = f"changes {ctx.owner} {batch_id} {status} {since}"
    after = ctx.cursors.read_version(scope, cursor) if cursor else Position(since)
    found, version = await ctx.services.uploads.list_changed(ctx.owner, batch_id, after=after, limit=limit + 1)
    next_cursor = None
    if len(found) > limit:
        last = found[limit - 1]
        next_cursor = ctx.cursors.make_version(scope, last.batch_version, last.id)
        version = max(since, last.batch_version - 1)  # there may be more of the last one's version
    matching = [upload for upload in found[:limit] if status in {None, upload.status}]
    return _upload_page(matching, next_cursor, version, request)


def _upload_page(uploads: list[Upload], next_cursor: str | None, version: int | None, request: Request) -> Response:
    body = schemas.UploadPage([schemas.upload_out(upload) for upload in uploads], next_cursor, version)
    return page(schemas.UPLOAD_PAGE.dump_json(body), request, next_cursor)
