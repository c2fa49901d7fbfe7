"""`/v1/batches`: open, read, list, seal, cancel, retry, delete, and list their uploads."""

from datetime import timedelta
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request, Response

from app.api import schemas
from app.api.body import describe_body, read_json
from app.api.cursors import AFTER_NONE, BEFORE_ALL
from app.api.dependencies import DEFAULT_LIMIT, BatchId, Ctx, Cursor, Limit, page, tagged
from app.api.openapi import NOT_MODIFIED, responses
from app.domain.batch import FINAL_BATCH, Batch, BatchStatus
from app.domain.upload import UploadStatus

router: Final = APIRouter(prefix="/v1/batches", tags=["batches"])

_RETRY_AFTER_SECONDS: Final = "1"
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


@router.get("/{batch_id}", response_model=schemas.Batch, responses=responses(404, also=NOT_MODIFIED))
async def read_batch(ctx: Ctx, batch_id: BatchId, request: Request) -> Response:
    """Read the exact account of a batch. With `If-None-Match`, 304 while nothing has changed."""
    return _answer(await ctx.services.batches.get(ctx.owner, batch_id), request)


@router.get("/{batch_id}/uploads", response_model=schemas.UploadPage, responses=responses(404, 422))
async def list_uploads(
    ctx: Ctx,
    batch_id: BatchId,
    request: Request,
    *,
    status: Annotated[UploadStatus | None, Query(description="Only those in this state.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """List the uploads of a batch, in the order they came."""
    scope = f"uploads {ctx.owner} {batch_id} {status}"
    _, after = ctx.cursors.read(scope, cursor) if cursor else AFTER_NONE
    found = await ctx.services.uploads.list_page(ctx.owner, batch_id, status=status, after=after, limit=limit + 1)
    last = found[limit - 1] if len(found) > limit else None
    next_cursor = ctx.cursors.make(scope, last.created_at, last.id) if last else None
    items = [schemas.upload_out(upload) for upload in found[:limit]]
    return page(schemas.UPLOAD_PAGE.dump_json(schemas.UploadPage(items, next_cursor)), request, next_cursor)


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
        headers["Retry-After"] = _RETRY_AFTER_SECONDS
    return tagged(schemas.BATCH.dump_json(schemas.batch_out(batch)), batch.version, request, status, **headers)
