"""Files in by multipart, and single uploads: read, history, delete."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from app.api import problems, schemas
from app.api.cursors import AFTER_NONE
from app.api.dependencies import DEFAULT_LIMIT, BatchId, Context, Ctx, Cursor, Limit, UploadId, identity, page, tagged
from app.api.idempotency import HEADER, key_in
from app.api.multipart import MultipartBody, boundary_of
from app.api.openapi import NOT_MODIFIED, multipart_body, responses
from app.domain.batch import BatchStatus
from app.domain.errors import (
    BatchClosedError,
    IdempotencyKeyInFlightError,
    IdempotencyKeyReusedError,
    InvalidHeaderError,
    QuotaExceededError,
    RequestTooLargeError,
)
from app.ingest.idempotency import Kept
from app.ingest.receive import Receipt, Reception, Target

router: Final = APIRouter(tags=["uploads"])


class RefSource(StrEnum):
    """What gives each file of a request its ref."""

    FILENAME = "filename"


_PART_HEAD_BYTES: Final = 4096
"""What stands around a file in a body is counted as this much at the most, so that none is refused that would fit."""
_SOME: Final = {"model": schemas.MultipartAnswer, "description": "Some files were taken, some rejected"}
_INGEST: Final = responses(400, 404, 409, 413, 415, 422, 507, also={207: _SOME})


@router.post(
    "/v1/batches/{batch_id}/uploads",
    status_code=201,
    response_model=schemas.MultipartAnswer,
    responses=_INGEST,
    openapi_extra=multipart_body(),
)
async def add_uploads(
    ctx: Ctx,
    batch_id: BatchId,
    request: Request,
    ref: Annotated[
        RefSource | None,
        Query(
            description="`filename`: each file part's filename is its ref as well, with the meaning of `PUT "
            "/v1/batches/{batch_id}/files/{path}`: it fills what was declared under it, the same bytes again change "
            "nothing, and other bytes are rejected for that file alone. Goes without an `Idempotency-Key`."
        ),
    ] = None,
) -> Response:
    """Add files to a batch. Each file that is whole is stored, whatever becomes of the others."""

    async def find_batch(_field: str | None) -> UUID:
        return batch_id

    if ref is RefSource.FILENAME:
        target = Target(ctx.owner, find_batch, schemas.draft_results, named=True)
        return await _receive_named(ctx, request, batch_id, target)
    return await _receive(ctx, request, find_batch, batch_id=batch_id)


@router.post(
    "/v1/uploads",
    status_code=201,
    response_model=schemas.MultipartAnswer,
    responses=_INGEST,
    openapi_extra=multipart_body(
        # No `format: uuid`: Swagger UI would fill in an id that is not there.
        batch_id={"type": "string", "default": "", "description": "Id of the batch to add to; empty for a new one."}
    ),
)
async def upload_files(ctx: Ctx, request: Request) -> Response:
    """Do the whole job in one request: open a batch, add the files, seal it."""

    async def find_batch(field: str | None) -> UUID | None:
        if not field:
            ctx.caller.check_target(None)
            return None
        batch_id = identity(field)
        ctx.caller.check_target(batch_id)
        return (await ctx.services.batches.get_open(ctx.owner, batch_id)).id

    return await _receive(ctx, request, find_batch)


@router.get("/v1/uploads/{upload_id}", response_model=schemas.Upload, responses=responses(404, also=NOT_MODIFIED))
async def read_upload(ctx: Ctx, upload_id: UploadId, request: Request) -> Response:
    """Read one upload."""
    upload = await ctx.services.uploads.get(ctx.owner, upload_id)
    return tagged(schemas.UPLOAD.dump_json(schemas.upload_out(upload)), upload.batch_version, request)


@router.get("/v1/uploads/{upload_id}/attempts", response_model=schemas.AttemptPage, responses=responses(404, 422))
async def list_attempts(
    ctx: Ctx, upload_id: UploadId, request: Request, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Response:
    """List the attempts at processing an upload that ended in an error, in their order."""
    scope = f"attempts {ctx.owner} {upload_id}"
    _, after = ctx.cursors.read(scope, cursor) if cursor else AFTER_NONE
    found = await ctx.services.uploads.list_attempts(ctx.owner, upload_id, after=after.int, limit=limit + 1)
    last = found[limit - 1] if len(found) > limit else None
    next_cursor = ctx.cursors.make(scope, last.ended_at, UUID(int=last.number)) if last else None
    items = [schemas.attempt_out(attempt) for attempt in found[:limit]]
    return page(schemas.ATTEMPT_PAGE.dump_json(schemas.AttemptPage(items, next_cursor)), request, next_cursor)


@router.delete("/v1/uploads/{upload_id}", status_code=204, response_class=Response, responses=responses(404))
async def delete_upload(ctx: Ctx, upload_id: UploadId) -> Response:
    """Delete an upload, and count it out of its batch."""
    await ctx.services.uploads.delete(ctx.owner, upload_id)
    return Response(status_code=204)


async def _receive(
    ctx: Context,
    request: Request,
    find_batch: Callable[[str | None], Awaitable[UUID | None]],
    *,
    batch_id: UUID | None = None,
) -> Response:
    """Take the body into the batch that `find_batch` finds, which is `batch_id` where that is known before the body."""
    key = key_in(request)
    target = Target(ctx.owner, find_batch, schemas.draft_results)
    try:
        if key is None:
            return _answer(await _take(ctx, request, target, batch_id), Kept())
        async with ctx.services.idempotency.keeping(key, schemas.draft_batch) as keyed:
            if keyed.batch_id:  # where it went before, which nobody asks `find_batch`
                ctx.caller.check_target(keyed.batch_id)
            receipt = await _take(ctx, request, replace(target, keyed=keyed), batch_id)
            reused = isinstance(receipt.error, IdempotencyKeyReusedError)
            before = Kept() if reused else await ctx.services.idempotency.results(keyed)
            return _answer(receipt, before)
    except (IdempotencyKeyInFlightError, IdempotencyKeyReusedError, QuotaExceededError) as error:
        return problems.answer_error(error)


async def _receive_named(ctx: Context, request: Request, batch_id: UUID, target: Target) -> Response:
    """Take the body into a batch, each file under its ref; what is declared comes into a sealed one as well."""
    if HEADER in request.headers:
        detail = f"With ref=filename each file can be sent again under its ref: leave out {HEADER}."
        raise InvalidHeaderError(detail, header=HEADER)
    batch = await ctx.services.batches.get(ctx.owner, batch_id)
    if batch.status is BatchStatus.CANCELLED:
        raise BatchClosedError("The batch is cancelled. Open a new one.", batch_status=batch.status)
    parser, _ = _parser(ctx, request)
    receipt = await ctx.services.receiver.receive(request.stream(), parser, target)
    if receipt.batch is None and receipt.sent:
        batch = await ctx.services.batches.get(ctx.owner, batch_id)
    return _answer(receipt, Kept(batch_id=batch.id, batch=schemas.draft_batch(batch)) if receipt.sent else Kept())


async def _take(ctx: Context, request: Request, target: Target, batch_id: UUID | None) -> Receipt:
    known = target.keyed is not None and target.keyed.parts > 0
    if batch_id and not known:
        await ctx.services.batches.get_open(ctx.owner, batch_id)
    parser, length = _parser(ctx, request)
    if not known:
        await ctx.services.quotas.check(ctx.owner, length - ctx.services.limits.max_parts * _PART_HEAD_BYTES)
    return await ctx.services.receiver.receive(request.stream(), parser, target)


def _parser(ctx: Context, request: Request) -> tuple[Callable[[Reception], MultipartBody], int]:
    """Return what parses the body, and how long that is by its own account, at the least."""
    limits = ctx.services.limits
    boundary = boundary_of(request.headers.get("content-type"), request.headers.get("content-encoding"))
    told = request.headers.get("content-length", "")
    length = int(told) if told.isdecimal() else 0
    if length > limits.max_request_bytes:
        raise RequestTooLargeError(f"The body is over {limits.max_request_bytes} bytes.")
    return (lambda reception: MultipartBody(boundary, reception, max_parts=limits.max_parts)), length


def _answer(receipt: Receipt, before: Kept) -> Response:
    """Answer 201, 207 or 422 by what was taken; or with the problem, and beside it what was kept before it."""
    drafts = [*before.results, *receipt.drafts]
    batch_id = receipt.batch.id if receipt.batch else before.batch_id
    batch = schemas.draft_batch(receipt.batch) if receipt.batch else before.batch
    answer = schemas.multipart_answer(batch_id, batch, drafts) if batch_id and batch else b""
    if receipt.error:
        return problems.answer(problems.of_error(receipt.error), members=answer)
    sent, taken = before.sent + receipt.sent, before.taken + receipt.taken
    if not taken:
        detail = f"None of the {sent} files was taken. Each result says why."
        return problems.answer(problems.describe("no-file-taken", detail), members=answer)
    headers = {"Location": f"/v1/batches/{batch_id}"}
    return Response(answer, 201 if taken == sent else 207, headers, media_type="application/json")
