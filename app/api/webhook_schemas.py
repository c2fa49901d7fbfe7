"""What goes over the wire about webhooks."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from app.api.schemas import Batch
from app.domain import webhook as domain
from app.domain.webhook import Attempt, DeliveryStatus, EventType


class NewWebhook(BaseModel):
    """A URL to be told of your batches."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[
        str,
        Field(
            json_schema_extra={"format": "uri"},
            description="https, a public address, no credentials; up to 2,048 characters.",
        ),
    ]
    events: Annotated[
        list[EventType], Field(min_length=1, max_length=10, description="Which events; all if left out.")
    ] = list(EventType)


@dataclass(slots=True)
class Webhook:
    """A URL that is told of your batches."""

    id: UUID
    url: str
    events: list[EventType]
    created_at: datetime
    disabled_at: Annotated[
        datetime | None, Field(description="Set once the receiver answered 410; nothing new is sent there any more.")
    ]


@dataclass(slots=True)
class MadeWebhook(Webhook):
    """A webhook, and the secret that its messages are signed with."""

    secret: Annotated[str, Field(description="`whsec_…`; yours, and the same for all of your webhooks.")]


@dataclass(slots=True)
class WebhookList:
    """All your webhooks, oldest first."""

    items: list[Webhook]


@dataclass(slots=True)
class Secret:
    """Your new secret."""

    secret: Annotated[str, Field(description="`whsec_…`; shown here, and where a webhook is made.")]
    older_until: Annotated[
        datetime | None, Field(description="Until then messages are signed with the one before it as well.")
    ]


@dataclass(slots=True)
class Delivery:
    """One message to one receiver, and every attempt at it."""

    id: Annotated[UUID, Field(description="The `webhook-id` of each attempt.")]
    batch_id: UUID
    webhook_id: Annotated[UUID | None, Field(description="Null where the batch named the URL.")]
    type: EventType
    url: str
    status: DeliveryStatus
    reason: Annotated[str | None, Field(description="Why it was given up.")]
    attempts: Annotated[
        list[Attempt],
        Field(description="The newest 50, oldest first. One without duration is going on, or its process was lost."),
    ]
    created_at: datetime
    next_attempt_at: Annotated[datetime | None, Field(description="Set while pending; the latest it will be tried.")]
    finished_at: datetime | None


@dataclass(slots=True)
class DeliveryPage:
    """Deliveries, newest first."""

    items: list[Delivery]
    next_cursor: Annotated[str | None, Field(description="For the next page; also in the Link header.")]


@dataclass(slots=True)
class Message:
    """The body of a webhook message."""

    type: EventType
    timestamp: Annotated[datetime, Field(description="When it happened, however late the message is.")]
    data: Annotated[Batch, Field(description="The batch as it was at that moment.")]


WEBHOOK: Final = TypeAdapter(Webhook)
MADE_WEBHOOK: Final = TypeAdapter(MadeWebhook)
WEBHOOK_LIST: Final = TypeAdapter(WebhookList)
SECRET: Final = TypeAdapter(Secret)
DELIVERY: Final = TypeAdapter(Delivery)
DELIVERY_PAGE: Final = TypeAdapter(DeliveryPage)


def webhook_out(endpoint: domain.Endpoint) -> Webhook:
    """Return an endpoint as its owner sees it."""
    return Webhook(endpoint.id, endpoint.url, list(endpoint.events), endpoint.created_at, endpoint.disabled_at)


def made_webhook_out(endpoint: domain.Endpoint, secrets: domain.SigningSecrets) -> MadeWebhook:
    """Return an endpoint as it is shown once, when it is made."""
    return MadeWebhook(
        endpoint.id, endpoint.url, list(endpoint.events), endpoint.created_at, endpoint.disabled_at, secrets.current
    )


def secret_out(secrets: domain.SigningSecrets) -> Secret:
    """Return the new secret, and how long the one before it lives."""
    return Secret(secrets.current, secrets.older[0].until if secrets.older else None)


def delivery_out(delivery: domain.Delivery) -> Delivery:
    """Return a delivery as its owner sees it."""
    return Delivery(
        id=delivery.id,
        batch_id=delivery.batch_id,
        webhook_id=delivery.endpoint_id,
        type=delivery.type,
        url=delivery.url,
        status=delivery.status,
        reason=delivery.reason,
        attempts=list(delivery.log),
        created_at=delivery.created_at,
        next_attempt_at=delivery.due_at if delivery.status is DeliveryStatus.PENDING else None,
        finished_at=delivery.finished_at,
    )
