"""Webhooks: who is told of which events, with which secrets, and what became of each message."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from app.domain.batch import FINAL_BATCH, Batch, progress_percentage
from app.domain.errors import WebhookLimitError

MAX_ENDPOINTS: Final = 20
MAX_OLDER_SECRETS: Final = 10
OLDER_SECRET_LIFETIME: Final = timedelta(days=1)
_SECRET_BYTES: Final = 32


class EventType(StrEnum):
    """What happened."""

    COMPLETED = "batch.completed"
    FAILED = "batch.failed"
    CANCELLED = "batch.cancelled"


class DeliveryStatus(StrEnum):
    """Where a message stands."""

    PENDING = "pending"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of `webhook_endpoints`: a URL that is told of its owner's batches."""

    id: UUID
    user_id: UUID
    url: str
    events: tuple[EventType, ...]
    created_at: datetime
    disabled_at: datetime | None
    """Set once the receiver said 410: from then on nothing new is sent there."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at sending. Without a result it is still going on, or the process that sent it was lost."""

    number: int
    """From 1 on."""
    at: datetime
    duration_seconds: float | None = None
    status_code: int | None = None
    error: str | None = None
    """Why there was no answer."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to one receiver; a row of `webhook_deliveries`, without what only the deliverer needs."""

    id: UUID
    """The `webhook-id` of every attempt."""
    user_id: UUID
    batch_id: UUID
    """The batch may be gone by now."""
    endpoint_id: UUID | None
    """None where the batch itself named the URL."""
    type: EventType
    url: str
    status: DeliveryStatus
    log: tuple[Attempt, ...]
    """The newest attempts, oldest first."""
    reason: str | None
    """Set exactly while `given_up`."""
    created_at: datetime
    """When the event happened."""
    due_at: datetime
    """When it is tried next, where it is `pending`."""
    finished_at: datetime | None
    """Set exactly while not `pending`."""


@dataclass(frozen=True, slots=True)
class OlderSecret:
    """A secret that was replaced, and is signed with until a moment."""

    secret: str = field(repr=False)
    until: datetime


@dataclass(frozen=True, slots=True)
class SigningSecrets:
    """The secrets of one owner: what is sent to whichever of their receivers is signed with all of them."""

    current: str = field(repr=False)
    older: tuple[OlderSecret, ...] = ()
    """Newest first."""

    def usable(self, now: datetime) -> list[str]:
        """Return what to sign with, newest first."""
        return [self.current, *(one.secret for one in self.older if one.until > now)]

    def rotated(self, fresh: str, now: datetime) -> "SigningSecrets":
        """Return them with `fresh` as the current one. The one before it lives on for a day.

        Raises WebhookLimitError where too many live on already: none of them is cut short.
        """
        older = tuple(one for one in self.older if one.until > now)
        if len(older) >= MAX_OLDER_SECRETS:
            raise WebhookLimitError(
                f"{MAX_OLDER_SECRETS} secrets were replaced within a day and are still in use. Wait for one to end."
            )
        return SigningSecrets(fresh, (OlderSecret(self.current, now + OLDER_SECRET_LIFETIME), *older))


def new_secret(random: Callable[[int], bytes]) -> str:
    """Return a fresh secret in the form of the Standard Webhooks specification, from 32 bytes that `random` gives."""
    return "whsec_" + base64.b64encode(random(_SECRET_BYTES)).decode()


def event_of(batch: Batch) -> EventType | None:
    """Return the event that the last change of a batch was, if any.

    `advance` and `cancel` give the end of a batch and the change that brought it the same moment; later changes of a
    finished batch have later ones.
    """
    if batch.status in FINAL_BATCH and batch.completed_at == batch.updated_at:
        return EventType(f"batch.{batch.status}")
    return None


def payload_of(batch: Batch, event: EventType) -> str:
    """Return the body of the message: the batch as the API shows it, at this moment."""
    data = {one.name: getattr(batch, one.name) for one in fields(batch)}
    data |= {
        "sealed": batch.sealed_at is not None,
        "progress_percentage": progress_percentage(batch),
        "url": f"/v1/batches/{batch.id}",
    }
    message = {"type": event, "timestamp": batch.completed_at, "data": data}
    return json.dumps(message, default=_plain, separators=(",", ":"))


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)
