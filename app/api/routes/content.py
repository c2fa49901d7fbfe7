"""The bytes of an upload: as an attachment, never as a page (RFC 9110 §14, RFC 6266)."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from app.api.dependencies import Ctx, UploadId, matches
from app.api.openapi import NOT_MODIFIED, responses
from app.api.problems import answer, of_error
from app.domain.errors import RangeNotSatisfiableError
from app.ingest.uploads import Content

router: Final = APIRouter(tags=["uploads"])

_CHUNK: Final = 256 * 1024
_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9!#$&+.^_`|~ ()\[\]{}=@,;'-]")
HARDENED: Final = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
"""What keeps bytes that somebody sent from being taken for a page of ours."""
_BINARY: Final = {
    "description": "The bytes",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


@router.head(
    "/v1/uploads/{upload_id}/content",
    name="head_content",
    response_class=Response,
    responses=responses(403, 404, 416, also=NOT_MODIFIED),
)
@router.get(
    "/v1/uploads/{upload_id}/content",
    response_class=Response,
    responses=responses(403, 404, 416, also=NOT_MODIFIED | {200: _BINARY, 206: _BINARY}),
)
async def read_content(ctx: Ctx, upload_id: UploadId, request: Request) -> Response:
    """Get the bytes back, all or one range of them."""
    content = await ctx.services.uploads.open_content(ctx.owner, upload_id)
    etag = f'"{content.sha256.hex()}"'
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-store",
        "Content-Disposition": disposition(content.filename),
        "Content-Type": "application/octet-stream",
        "ETag": etag,
        "Repr-Digest": f"sha-256=:{base64.b64encode(content.sha256).decode()}:",
        **HARDENED,
    }
    size = content.size_bytes
    start, end, status = 0, size, 200
    try:
        if matches(request.headers.get("if-none-match"), etag):
            content.close()
            return Response(status_code=304, headers=headers)
        # Only GET has ranges (RFC 9110 §14.2).
        if request.method == "GET" and request.headers.get("if-range", etag) == etag:
            span = parse_range(", ".join(request.headers.getlist("range")), size)
            if span:
                start, end, status = *span, 206
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    except RangeNotSatisfiableError as error:
        content.close()
        return answer(of_error(error), {"Content-Range": f"bytes */{size}"})
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        content.close()
        return Response(status_code=status, headers=headers)
    return StreamingResponse(_stream(content, start, end), status, headers)


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the one range asked for as [start, end), or None where the whole is to be sent.

    The whole goes to those who ask for none, for several, or in a form that is not understood (RFC 9110 §14.2). Raises
    RangeNotSatisfiableError where nothing of the range is there.
    """
    match = _RANGE.fullmatch(header.strip())
    if not match or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None
    if start >= end:
        raise RangeNotSatisfiableError(f"The file has {size} bytes.", size_bytes=size)
    return start, end


def disposition(filename: str) -> str:
    """Return an attachment's Content-Disposition: the last segment of the name, in ASCII and in full (RFC 8187)."""
    name = re.split(r"[\\/]", filename)[-1]
    plain = _UNSAFE.sub("_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


async def _stream(content: Content, start: int, end: int) -> AsyncIterator[bytes]:
    """Yield the bytes; close them once nobody reads them any more, which may be after the client has gone away."""
    reading: asyncio.Future[bytes] | None = None

    def close(read: "asyncio.Future[bytes]") -> None:
        content.close()
        if not read.cancelled():
            read.exception()  # of no interest to anybody any more

    try:
        while start < end:
            reading = asyncio.ensure_future(content.read(start, min(_CHUNK, end - start)))
            chunk = await asyncio.shield(reading)
            start += len(chunk)
            yield chunk
    finally:
        if reading is None or reading.done():
            content.close()
        else:
            reading.add_done_callback(close)
