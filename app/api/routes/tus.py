"""`/v1/tus`: resumable uploads by tus 1.0.0. What it makes is an upload like any other, in a batch like any other."""

from dataclasses import replace
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from app.api import tus_docs, tus_headers, tus_piece
from app.api.dependencies import Context, Ctx, UploadId
from app.api.idempotency import key_in
from app.api.tus_headers import PATH, VERSION, Creation
from app.api.tus_route import TusRoute
from app.domain.errors import BoatloadError
from app.domain.filename import parse_filename
from app.domain.receiving import NewUpload, Receiving
from app.ingest.tus import to_be_told, told

router: Final = APIRouter(prefix=PATH, tags=["tus"], route_class=TusRoute)

_TOLD_BY: Final = ("Upload-Length", "Upload-Defer-Length", "Upload-Metadata", "Upload-Concat")
"""What tells a creation from others; bytes that come with it may be others, or none."""
_UNNAMED: Final = b"unnamed"
_FRESH: Final = {"Cache-Control": "no-store"}


@router.options("/{upload_id}", include_in_schema=False)
@router.options("", status_code=204, response_class=Response, responses=tus_docs.ABILITIES)
async def describe_tus(ctx: Ctx) -> Response:
    """Say what of tus is spoken here."""
    abilities = {
        "Tus-Version": VERSION,
        "Tus-Extension": ",".join(tus_headers.EXTENSIONS),
        "Tus-Max-Size": str(ctx.services.limits.max_file_bytes),
        "Tus-Checksum-Algorithm": ",".join(tus_headers.DIGEST_BYTES),
    }
    return Response(status_code=204, headers=abilities)


@router.post("", status_code=201, response_class=Response, responses=tus_docs.CREATED, openapi_extra=tus_docs.CREATION)
async def create_upload(ctx: Ctx, request: Request) -> Response:
    """Make an upload, in the batch that `batch_id` in Upload-Metadata names, or alone in a batch of its own."""
    creation = tus_headers.read_creation(request.headers, path=PATH, max_bytes=ctx.services.limits.max_file_bytes)
    metadata, concat = creation.metadata, creation.concat
    ctx.caller.check_target(metadata.batch_id)
    if concat:
        ctx.caller.check_unbound()  # partial uploads are in no batch
    key = key_in(request, *(request.headers.get(name, "").encode("latin-1") for name in _TOLD_BY))
    new = NewUpload(
        ref=metadata.ref,
        filename=parse_filename(metadata.filename or _UNNAMED),
        size_bytes=creation.length,
        content_type=metadata.content_type,
        metadata=to_be_told(metadata.raw, concat.raw if concat else None),
        partial=concat is not None and concat.parts is None,
    )
    if concat and concat.parts is not None:
        known = await ctx.services.tus.concatenate(ctx.owner, metadata.batch_id, new, concat.parts, key)
    else:
        known, fresh = await ctx.services.tus.create(ctx.owner, metadata.batch_id, new, key)
        if creation.body:
            known = await _first_bytes(ctx, request, creation, known, fresh=fresh, known_by_key=key is not None)
    headers = tus_piece.standing(known) | {"Location": f"{ctx.base}{PATH}/{known.upload.id}"}
    return Response(status_code=201, headers=headers)


@router.head("/{upload_id}", response_class=Response, responses=tus_docs.STANDING, openapi_extra=tus_docs.SPOKEN)
async def read_offset(ctx: Ctx, upload_id: UploadId) -> Response:
    """Say where to go on. Whoever still writes the upload is stopped, so that the answer stays right."""
    known = await ctx.services.tus.settle(ctx.owner, upload_id)
    upload = known.upload
    headers = tus_piece.standing(known)
    if upload.size_bytes is None:
        headers["Upload-Defer-Length"] = "1"
    else:
        headers["Upload-Length"] = str(upload.size_bytes)
    if metadata := told(upload.metadata, "metadata"):
        headers["Upload-Metadata"] = metadata
    if concat := told(upload.metadata, "concat"):
        headers["Upload-Concat"] = concat
    return Response(status_code=200, headers=headers)


@router.patch(
    "/{upload_id}",
    status_code=204,
    response_class=Response,
    responses=tus_docs.APPENDED,
    openapi_extra=tus_docs.PIECE,
)
async def append_bytes(ctx: Ctx, upload_id: UploadId, request: Request) -> Response:
    """Add bytes behind those that are there. A request that is cut keeps what came of it."""
    return await tus_piece.append(ctx.services, ctx.owner, upload_id, request)


@router.delete(
    "/{upload_id}",
    status_code=204,
    response_class=Response,
    responses=tus_docs.TERMINATED,
    openapi_extra=tus_docs.SPOKEN,
)
async def terminate_upload(ctx: Ctx, upload_id: UploadId) -> Response:
    """Delete the upload, and count it out of its batch."""
    await ctx.services.resumable.terminate(ctx.owner, upload_id)
    return Response(status_code=204)


async def _first_bytes(
    ctx: Context, request: Request, creation: Creation, known: Receiving, *, fresh: bool, known_by_key: bool
) -> Receiving:
    """Take the bytes that came with the creation; return the upload as it is then.

    Of an upload that was made before nothing is taken unless it is empty: the answer says where to go on. One that is
    new, with neither ref nor key, goes again where its bytes are not taken, because its client never learns of it.
    """
    assert creation.body is not None
    upload_id = known.upload.id
    if not fresh:
        known = await ctx.services.tus.settle(ctx.owner, upload_id)
        if known.upload.received_bytes or known.whole:
            return known
    try:
        upload = await ctx.services.resumable.append(
            ctx.owner,
            upload_id,
            offset=0,
            body=request.stream(),
            length=creation.body.length,
            checks=tus_piece.checks(creation.checksum),
        )
    except (BoatloadError, ClientDisconnect):
        if fresh and known.upload.ref is None and not known_by_key:
            alone = creation.metadata.batch_id is None
            await ctx.services.resumable.terminate(ctx.owner, upload_id, with_batch=alone)
        raise
    return replace(known, upload=upload)
