"""Files by PUT: into a batch under their path, or as the bytes of a declared upload."""

from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.convertors import PathConvertor, register_url_convertor

from app.api import putting, schemas
from app.api.dependencies import BatchId, Ctx, UploadId
from app.api.openapi import raw_body, responses


class _Anything(PathConvertor):
    """A path with whatever is in it: what is no file name is refused by name, and not as something unknown."""

    regex = r"[\s\S]*"


register_url_convertor("anything", _Anything())

router: Final = APIRouter(tags=["uploads"])

_STORED: Final = {201: {"model": schemas.Upload, "description": "Stored"}}
_PROBLEMS: Final = (400, 404, 409, 410, 413, 415, 422, 423, 507)


@router.put(
    "/v1/batches/{batch_id}/files/{path:anything}",
    response_model=schemas.Upload,
    responses=responses(*_PROBLEMS, also=_STORED),
    openapi_extra=raw_body("Repr-Digest", "Want-Repr-Digest"),
)
async def put_file(ctx: Ctx, batch_id: BatchId, path: str, request: Request) -> Response:  # noqa: ARG001 - read from the raw path
    """Store a file under its path. The same bytes again answer 200, other bytes 409."""
    return await putting.put_file(ctx.services, ctx.owner, batch_id, request)


@router.put(
    "/v1/uploads/{upload_id}/content",
    response_model=schemas.Upload,
    responses=responses(*_PROBLEMS, also=_STORED),
    openapi_extra=raw_body("Upload-Offset", "Upload-Length", "Repr-Digest", "Content-Digest", "Want-Repr-Digest"),
)
async def put_content(ctx: Ctx, upload_id: UploadId, request: Request) -> Response:
    """Store bytes of a declared upload, from `Upload-Offset` on: 200 while some are missing, 201 once it is whole."""
    return await putting.put_content(ctx.services, ctx.owner, upload_id, request)
