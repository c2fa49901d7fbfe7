"""The thumbnails of images."""

from typing import Final

from fastapi import APIRouter, Request, Response

from app.api.dependencies import Ctx, UploadId, matches
from app.api.openapi import NOT_MODIFIED, responses
from app.api.routes.content import HARDENED

router: Final = APIRouter(tags=["uploads"])

_MEDIA_TYPE: Final = "image/webp"
_IMAGE: Final = {
    "description": "The image",
    "content": {_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
}


@router.get(
    "/v1/uploads/{upload_id}/thumbnail",
    response_class=Response,
    responses=responses(404, also=NOT_MODIFIED | {200: _IMAGE}),
)
async def read_thumbnail(ctx: Ctx, upload_id: UploadId, request: Request) -> Response:
    """Get the thumbnail of an image: WebP, upright. 404 where there is none."""
    thumbnail = await ctx.services.uploads.find_thumbnail(ctx.owner, upload_id)
    headers = {"Cache-Control": "private, no-cache", "ETag": f'"{thumbnail.tag}"', **HARDENED}
    if matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(await thumbnail.read(), 200, headers, _MEDIA_TYPE)
