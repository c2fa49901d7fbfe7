"""Answers to PATCH, the request of tus that is sent most: bytes behind those that are there."""

from dataclasses import replace
from datetime import UTC
from email.utils import format_datetime
from functools import partial
from typing import Final
from uuid import UUID

from fastapi import Request, Response

from app.api import tus_headers
from app.api.tus_route import answered
from app.bootstrap import Services
from app.domain.receiving import Check, Receiving
from app.ingest.checksums import Checksum

_FRESH: Final = {"Cache-Control": "no-store"}


async def take_piece(services: Services, owner: UUID, upload_id: UUID, request: Request) -> Response:
    """Answer as `append_bytes` does: between one piece and the next its client sends nothing, so every moment counts.

    Raises ClientDisconnect.
    """
    return await answered(request, partial(append, services, owner, upload_id))


async def append(services: Services, owner: UUID, upload_id: UUID, request: Request) -> Response:
    """Add the body to the upload, and answer. Raises what its headers and the service say, ClientDisconnect."""
    headers = request.headers
    body = tus_headers.read_piece(headers)
    offset = tus_headers.read_offset(headers)
    size = tus_headers.read_length(headers, max_bytes=services.limits.max_file_bytes)
    wanted = checks(tus_headers.read_checksum(headers))
    known = await services.tus.look(owner, upload_id)
    upload = await services.resumable.append(
        owner,
        upload_id,
        offset=offset,
        body=request.stream(),
        length=body.length,
        final_size=size,
        checks=wanted,
        known=known,
    )
    return Response(status_code=204, headers=standing(replace(known, upload=upload)))


def checks(checksum: tus_headers.Checksum | None) -> list[Check]:
    """Return what a piece is to be held against."""
    return [Checksum(checksum.algorithm, checksum.digest)] if checksum else []


def standing(known: Receiving) -> dict[str, str]:
    """Return what every answer on an upload says: where to go on, and until when."""
    headers = _FRESH | {"Upload-Offset": str(known.upload.received_bytes)}
    if known.expires_at and (known.partial or not known.whole):
        headers["Upload-Expires"] = format_datetime(known.expires_at.astimezone(UTC), usegmt=True)
    return headers
