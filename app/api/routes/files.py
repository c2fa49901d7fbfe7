"""Files by PUT: into a batch under their path, or as the bytes of a declared upload."""

from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Request, Response
from starlette.convertors import PathConvertor, register_url_convertor

from app.api import schemas
from app.api.dependencies import BatchId, Ctx, UploadId, tagged
from app.api.digests import ContentDigest, repr_digest, sha256_in, wants_sha256
from app.api.openapi import raw_body, responses
from app.api.problems import answer_error
from app.api.raw_body import RawBody, bytes_in
from app.domain.errors import BoatloadError
from app.domain.filename import parse_filename
from app.domain.upload import Upload, UploadStatus


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
async def put_file(ctx: Ctx, batch_id: BatchId, path: str, request: Request) -> Response:  # noqa: ARG001 - see below
    """Store a file under its path. The same bytes again answer 200, other bytes 409."""
    raw: bytes = request.scope["raw_path"]
    name = unquote_to_bytes(raw.partition(b"/files/")[2])  # decoded once, and not as text yet

    async def put(body: RawBody) -> tuple[Upload, bool]:
        path = parse_filename(name)
        return await ctx.services.single_files.put(ctx.owner, batch_id, path, body.described(whole=True))

    return await _answer(request, put)


@router.put(
    "/v1/uploads/{upload_id}/content",
    response_model=schemas.Upload,
    responses=responses(*_PROBLEMS, also=_STORED),
    openapi_extra=raw_body("Upload-Offset", "Upload-Length", "Repr-Digest", "Content-Digest", "Want-Repr-Digest"),
)
async def put_content(ctx: Ctx, upload_id: UploadId, request: Request) -> Response:
    """Store bytes of a declared upload, from `Upload-Offset` on: 200 while some are missing, 201 once it is whole."""

    async def put(body: RawBody) -> tuple[Upload, bool]:
        offset, final_size = bytes_in(request, "Upload-Offset"), bytes_in(request, "Upload-Length")
        described = body.described(whole=offset is None)
        content = sha256_in(request.headers.get("content-digest")) if offset is not None else None
        return await ctx.services.single_files.put_content(
            ctx.owner,
            upload_id,
            described,
            offset=offset,
            final_size=final_size,
            check=ContentDigest(content) if content else None,
        )

    return await _answer(request, put)


async def _answer(request: Request, put: Callable[[RawBody], Awaitable[tuple[Upload, bool]]]) -> Response:
    """Answer with the upload, or with what went wrong; a body that was not read ends its connection."""
    body = RawBody(request)
    try:
        upload, stored = await put(body)
    except BoatloadError as error:
        return answer_error(error, **({} if body.ended else {"Connection": "close"}))
    headers = {"Upload-Offset": str(upload.received_bytes)} | ({} if body.ended else {"Connection": "close"})
    if stored:
        headers["Location"] = f"/v1/uploads/{upload.id}"
    if upload.sha256 and wants_sha256(request.headers.get("want-repr-digest")):
        headers["Repr-Digest"] = repr_digest(upload.sha256)
    status = 201 if stored and upload.status is not UploadStatus.RECEIVING else 200
    return tagged(
        schemas.UPLOAD.dump_json(schemas.upload_out(upload)), upload.batch_version, request, status, **headers
    )
