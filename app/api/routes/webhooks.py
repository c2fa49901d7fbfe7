"""`/v1/webhooks`: who is told of your batches, the secret, and what became of each message."""

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from app.api import webhook_schemas as schemas
from app.api.body import describe_body, read_json
from app.api.cursors import BEFORE_ALL
from app.api.dependencies import DEFAULT_LIMIT, JSON, Ctx, Cursor, Limit, identity, page
from app.api.idempotency import IdempotentRoute
from app.api.openapi import responses
from app.domain.webhook import DeliveryStatus

router: Final = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=IdempotentRoute)

_PRIVATE: Final = {"Cache-Control": "private, no-store"}


def _delivery_id(delivery_id: Annotated[str, Path(json_schema_extra={"format": "uuid"})]) -> UUID:
    return identity(delivery_id)


WebhookId = Annotated[UUID, Path()]
"""Its routes name the form of an id as well, so that they are not taken for those of `deliveries` and `rotate`."""
DeliveryId = Annotated[UUID, Depends(_delivery_id)]


@router.post(
    "",
    status_code=201,
    response_model=schemas.MadeWebhook,
    responses=responses(409, 413, 415, 422),
    openapi_extra=describe_body(schemas.NewWebhook),
)
async def create_webhook(ctx: Ctx, request: Request) -> Response:
    """Have a URL told when your batches end. The answer shows the secret that all your messages are signed with."""
    new = await read_json(request, schemas.NewWebhook)
    endpoint, secrets = await ctx.services.webhooks.create(ctx.owner, new.url, new.events)
    body = schemas.MADE_WEBHOOK.dump_json(schemas.made_webhook_out(endpoint, secrets))
    return Response(body, 201, _PRIVATE | {"Location": f"/v1/webhooks/{endpoint.id}"}, JSON)


@router.get("", response_model=schemas.WebhookList, responses=responses())
async def list_webhooks(ctx: Ctx) -> Response:
    """List your webhooks, oldest first. There are at most 20."""
    items = [schemas.webhook_out(endpoint) for endpoint in await ctx.services.webhooks.list_all(ctx.owner)]
    return Response(schemas.WEBHOOK_LIST.dump_json(schemas.WebhookList(items)), 200, _PRIVATE, JSON)


@router.post("/rotate", response_model=schemas.Secret, responses=responses(409))
async def rotate_secret(ctx: Ctx) -> Response:
    """Make a new secret. For a day messages are signed with the one before it as well."""
    secrets = await ctx.services.webhooks.rotate(ctx.owner)
    return Response(schemas.SECRET.dump_json(schemas.secret_out(secrets)), 200, _PRIVATE, JSON)


@router.get("/deliveries", response_model=schemas.DeliveryPage, responses=responses(422))
async def list_deliveries(
    ctx: Ctx,
    request: Request,
    *,
    batch_id: Annotated[UUID | None, Query(description="Only those of this batch.")] = None,
    status: Annotated[DeliveryStatus | None, Query(description="Only those in this state.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """List the messages to your receivers, newest first, each with its attempts."""
    scope = f"deliveries {ctx.owner} {batch_id} {status}"
    before = ctx.cursors.read(scope, cursor) if cursor else BEFORE_ALL
    found = await ctx.services.webhooks.list_deliveries(
        ctx.owner, batch_id=batch_id, status=status, before=before, limit=limit + 1
    )
    last = found[limit - 1] if len(found) > limit else None
    next_cursor = ctx.cursors.make(scope, last.created_at, last.id) if last else None
    items = [schemas.delivery_out(delivery) for delivery in found[:limit]]
    return page(schemas.DELIVERY_PAGE.dump_json(schemas.DeliveryPage(items, next_cursor)), request, next_cursor)


@router.get("/deliveries/{delivery_id}", response_model=schemas.Delivery, responses=responses(404))
async def read_delivery(ctx: Ctx, delivery_id: DeliveryId) -> Response:
    """Read one message's attempts."""
    delivery = await ctx.services.webhooks.get_delivery(ctx.owner, delivery_id)
    return Response(schemas.DELIVERY.dump_json(schemas.delivery_out(delivery)), 200, _PRIVATE, JSON)


@router.post(
    "/deliveries/{delivery_id}/redeliver", status_code=202, response_model=schemas.Delivery, responses=responses(404)
)
async def redeliver(ctx: Ctx, delivery_id: DeliveryId) -> Response:
    """Send a message again, under its old id, whatever became of it."""
    delivery = await ctx.services.webhooks.redeliver(ctx.owner, delivery_id)
    return Response(schemas.DELIVERY.dump_json(schemas.delivery_out(delivery)), 202, _PRIVATE, JSON)


@router.get("/{webhook_id:uuid}", response_model=schemas.Webhook, responses=responses(404))
async def read_webhook(ctx: Ctx, webhook_id: WebhookId) -> Response:
    """Read one webhook."""
    endpoint = await ctx.services.webhooks.get(ctx.owner, webhook_id)
    return Response(schemas.WEBHOOK.dump_json(schemas.webhook_out(endpoint)), 200, _PRIVATE, JSON)


@router.delete("/{webhook_id:uuid}", status_code=204, response_class=Response, responses=responses(404))
async def delete_webhook(ctx: Ctx, webhook_id: WebhookId) -> Response:
    """Delete a webhook. What still waits for it is given up."""
    await ctx.services.webhooks.delete(ctx.owner, webhook_id)
    return Response(status_code=204)
