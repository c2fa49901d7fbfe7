"""Answers to those who put a file, or a piece of one."""

import re
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import unquote_to_bytes
from uuid import UUID

from fastapi import Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import schemas
from app.api.audit_trail import ACTION
from app.api.dependencies import owner_of, tagged
from app.api.digests import ContentDigest, repr_digest, sha256_in, wants_sha256
from app.api.problems import answer_error, client_gone
from app.api.raw_body import RawBody, bytes_in
from app.bootstrap import Services
from app.domain.errors import BoatloadError
from app.domain.filename import parse_filename
from app.domain.upload import Upload, UploadStatus

_FILE: Final = re.compile(r"/v1/batches/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/files/[\s\S]*")


class FileLane:
    """ASGI middleware: takes files by PUT without the framework, which takes longer over a small one than all else.

    It answers as the route does, by the same function; a path that it does not know goes on to the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app: Final = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or pass it on."""
        path = _FILE.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "PUT" else None
        if path is None:
            await self._app(scope, receive, send)
            return
        scope[ACTION], scope["path_params"] = "put_file", {"batch_id": path[1]}
        request = Request(scope, receive)
        services: Services = scope["app"].state.services
        try:
            response = await put_file(services, owner_of(scope), UUID(path[1]), request)
        except ClientDisconnect as gone:
            response = await client_gone(request, gone)
        await response(scope, receive, send)


async def put_file(services: Services, owner: UUID, batch_id: UUID, request: Request) -> Response:
    """Store the body under the path behind `/files/`, and answer."""
    raw: bytes = request.scope["raw_path"]
    name = unquote_to_bytes(raw.partition(b"/files/")[2])  # decoded once, and not as text yet

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
