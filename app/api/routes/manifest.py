"""`/v1/batches/{id}/manifest`: say what is to come, and learn what is missing."""

from typing import Final

from fastapi import APIRouter, Request, Response

from app.api import schemas
from app.api.body import describe_body, read_json
from app.api.dependencies import BatchId, Ctx, tagged
from app.api.idempotency import IdempotentRoute
from app.api.openapi import responses
from app.domain.errors import InvalidFilenameError
from app.domain.filename import parse_filename
from app.domain.receiving import NewUpload

router: Final = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=IdempotentRoute)

_MAX_BYTES: Final = 16 * 1024 * 1024


@router.post(
    "/{batch_id}/manifest",
    response_model=schemas.ManifestAnswer,
    responses=responses(404, 409, 410, 413, 415, 422),
    openapi_extra=describe_body(schemas.Manifest),
)
async def declare_files(ctx: Ctx, batch_id: BatchId, request: Request) -> Response:
    """Declare files, all of them or none. The same call again has no further effect, and says what is missing."""
    manifest = await read_json(request, schemas.Manifest, max_bytes=_MAX_BYTES)
    if manifest.seal:
        ctx.caller.check_unbound()
    entries = [_entry(entry) for entry in manifest.entries]
    batch, declared = await ctx.services.manifests.declare(ctx.owner, batch_id, entries, seal=manifest.seal)
    return tagged(schemas.MANIFEST.dump_json(schemas.manifest_out(batch, declared)), batch.version, request)


def _entry(entry: schemas.ManifestEntry) -> NewUpload:
    try:
        filename = parse_filename(entry.filename.encode())
    except InvalidFilenameError as error:
        raise InvalidFilenameError(error.detail, refs=[entry.ref]) from None
    sha256 = bytes.fromhex(entry.sha256) if entry.sha256 else None
    return NewUpload(entry.ref, filename, entry.size_bytes, sha256, entry.content_type)
