"""What an owner does with webhooks: endpoints, the secret, the log of deliveries, and sending one again."""

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from app.db.pool import Database
from app.domain.errors import NotFoundError, WebhookLimitError
from app.domain.ids import Clock, Ids
from app.domain.webhook import (
    MAX_ENDPOINTS,
    Delivery,
    DeliveryStatus,
    Endpoint,
    EventType,
    SigningSecrets,
    new_secret,
)
from app.domain.webhook_url import parse_webhook_url
from app.repositories.unit_of_work import reading, unit_of_work


class WebhookService:
    """All methods are by owner: another's is NotFoundError. All may raise DatabaseUnavailableError."""

    def __init__(
        self,
        database: Database,
        *,
        allow_private: bool,
        clock: Clock,
        new_id: Ids,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._database: Final = database
        self._allow_private: Final = allow_private
        self._clock: Final = clock
        self._new_id: Final = new_id
        self._random: Final = random

    async def create(self, owner: UUID, url: str, events: Sequence[EventType]) -> tuple[Endpoint, SigningSecrets]:
        """Make an endpoint; return it with the owner's secrets, which are made where there are none.

        Raises InvalidWebhookUrlError, and WebhookLimitError where the owner has as many as allowed.
        """
        parse_webhook_url(url, allow_private=self._allow_private)
        endpoint = Endpoint(self._new_id(), owner, url, tuple(dict.fromkeys(events)), self._clock(), None)
        async with unit_of_work(self._database) as uow:
            secrets = await uow.webhook_secrets.lock_or_add(owner, new_secret(self._random))
            if len(await uow.webhook_endpoints.list_all(owner)) >= MAX_ENDPOINTS:
                raise WebhookLimitError(f"There are {MAX_ENDPOINTS} webhooks already. Delete one first.")
            await uow.webhook_endpoints.insert(endpoint)
        return endpoint, secrets

    async def list_all(self, owner: UUID) -> list[Endpoint]:
        """Return all endpoints, oldest first."""
        async with reading(self._database) as uow:
            return await uow.webhook_endpoints.list_all(owner)

    async def get(self, owner: UUID, endpoint_id: UUID) -> Endpoint:
        """Return an endpoint."""
        async with reading(self._database) as uow:
            endpoint = await uow.webhook_endpoints.find(endpoint_id, owner)
        if endpoint is None:
            raise NotFoundError
        return endpoint

    async def delete(self, owner: UUID, endpoint_id: UUID) -> None:
        """Delete an endpoint, and give up what still waits for it."""
        async with unit_of_work(self._database) as uow:
            if await uow.webhook_endpoints.delete(endpoint_id, owner) is None:
                raise NotFoundError
            await uow.webhook_deliveries.give_up(endpoint_id, "the webhook was deleted")

    async def rotate(self, owner: UUID) -> SigningSecrets:
        """Make a new secret the current one; the one before it is signed with for another day.

        Raises WebhookLimitError after too many within a day.
        """
        async with unit_of_work(self._database) as uow:
            fresh = new_secret(self._random)
            secrets = await uow.webhook_secrets.lock_or_add(owner, fresh)
            if secrets.current != fresh:
                secrets = secrets.rotated(fresh, self._clock())
                await uow.webhook_secrets.save(owner, secrets)
        return secrets

    async def list_deliveries(
        self,
        owner: UUID,
        *,
        batch_id: UUID | None,
        status: DeliveryStatus | None,
        before: tuple[datetime, UUID],
        limit: int,
    ) -> list[Delivery]:
        """Return deliveries, newest first, from just behind `before` on."""
        async with reading(self._database) as uow:
            return await uow.webhook_deliveries.list_page(
                owner, batch_id=batch_id, status=status, before=before, limit=limit
            )

    async def get_delivery(self, owner: UUID, delivery_id: UUID) -> Delivery:
        """Return a delivery."""
        async with reading(self._database) as uow:
            delivery = await uow.webhook_deliveries.find(delivery_id, owner)
        if delivery is None:
            raise NotFoundError
        return delivery

    async def redeliver(self, owner: UUID, delivery_id: UUID) -> Delivery:
        """Have a message sent again, whatever became of it: same id, same bytes, same URL, fresh signature."""
        async with reading(self._database) as uow:
            delivery = await uow.webhook_deliveries.redeliver(delivery_id, owner)
        if delivery is None:
            raise NotFoundError
        return delivery
