"""Answers to those who put a file, or a piece of one."""

from collections.abc import Awaitable, Callable
from urllib.parse import unquote_to_bytes
from uuid import UUID

from fastapi import Request, Response

from app.api import schemas
from app.api.dependencies import tagged
from app.api.digests import ContentDigest, repr_digest, sha256_in, wants_sha256
from app.api.problems import answer_error
from app.api.raw_body import RawBody, bytes_in
from app.bootstrap import Services
from app.domain.errors import BoatloadError
from app.domain.filename import parse_filename
from app.domain.upload import Upload, UploadStatus


async def put_file(services: Services, owner: UUID, batch_id: UUID, request: Request) -> Response:
    """Store the body under the path behind `/files/`, and answer."""
    raw: bytes = request.scope["raw_path"]
    name = unquote_to_bytes(raw).partition(b"/files/")[2]  # decoded once, and not as text yet

    async def put(body: RawBody) -> tuple[Upload, bool]:
        path = parse_filename(name)
        return await services.single_files.put(owner, batch_id, path, body.described(whole=True))

    return await _answer(request, put)


async def put_content(services: Services, owner: UUID, upload_id: UUID, request: Request) -> Response:
    """Store the body as the bytes of an upload, from `Upload-Offset` on where that is there, and answer."""

    async def put(body: RawBody) -> tuple[Upload, bool]:
        offset, final_size = bytes_in(request, "Upload-Offset"), bytes_in(request, "Upload-Length")
        described = body.described(whole=offset is None)
        content = sha256_in(request.headers.get("content-digest")) if offset is not None else None
        return await services.single_files.put_content(
            owner,
            upload_id,
            described,
            offset=offset,
            final_size=final_size,
            check=ContentDigest(content) if content else None,
        )

    return await _answer(request, put)


async def _answer(request: Request, put: Callable[[RawBody], Awaitable[tuple[Upload, bool]]]) -> Response:
    """Answer with the upload, or with what went wrong."""
    try:
        upload, stored = await put(RawBody(request))
    except BoatloadError as error:
        return answer_error(error)
    headers = {"Upload-Offset": str(upload.received_bytes)}
    if stored:
        headers["Location"] = f"/v1/uploads/{upload.id}"
    if upload.sha256 and wants_sha256(request.headers.get("want-repr-digest")):
        headers["Repr-Digest"] = repr_digest(upload.sha256)
    status = 201 if stored and upload.status is not UploadStatus.RECEIVING else 200
    return tagged(
        schemas.UPLOAD.dump_json(schemas.upload_out(upload)), upload.batch_version, request, status, **headers
    )
