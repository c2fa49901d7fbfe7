"""`/v1/batches/{id}/tokens`: lend somebody the right to add to one batch and to read it."""

from datetime import timedelta
from typing import Final

from fastapi import APIRouter, Request, Response

from app.api import token_schemas as schemas
from app.api.audit_trail import NOTED
from app.api.body import describe_body, read_json
from app.api.dependencies import JSON, BatchId, Ctx
from app.api.idempotency import IdempotentRoute
from app.api.openapi import responses
from app.auth.batch_tokens import LIFE

router: Final = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=IdempotentRoute)


@router.post(
    "/{batch_id}/tokens",
    status_code=201,
    response_model=schemas.BatchToken,
    responses=responses(404, 413, 415, 422),
    openapi_extra=describe_body(schemas.NewBatchToken),
)
async def create_token(ctx: Ctx, batch_id: BatchId, request: Request) -> Response:
    """Make a token that may add files to this batch and read it, and nothing else. With a token itself: renew it."""
    new = await read_json(request, schemas.NewBatchToken)
    await ctx.services.reader.get(ctx.owner, batch_id)
    life = timedelta(seconds=new.expires_in_seconds) if new.expires_in_seconds else LIFE
    token = ctx.services.batch_tokens.issue(ctx.caller, batch_id, life)
    request.scope[NOTED] = {"token_id": str(token.id)}
    body = schemas.BATCH_TOKEN.dump_json(schemas.batch_token_out(token))
    return Response(body, 201, {"Cache-Control": "no-store"}, JSON)
