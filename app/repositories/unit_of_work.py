"""One connection, one transaction, and the repositories bound to it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.repositories.api_keys import ApiKeys
from app.repositories.arrivals import Arrivals
from app.repositories.batches import Batches
from app.repositories.idempotency_keys import IdempotencyKeys
from app.repositories.idempotency_runs import IdempotencyRuns
from app.repositories.objects import Objects
from app.repositories.quota_usage import QuotaUsage
from app.repositories.quotas import Quotas
from app.repositories.receiving import ReceivingUploads
from app.repositories.service_keys import ServiceKeys
from app.repositories.upload_attempts import UploadAttempts
from app.repositories.uploads import Uploads
from app.repositories.webhook_deliveries import WebhookDeliveries
from app.repositories.webhook_endpoints import WebhookEndpoints
from app.repositories.webhook_secrets import WebhookSecrets
from app.repositories.work import Work

if TYPE_CHECKING:
    from app.db.pool import Connection, Database


@dataclass(frozen=True, slots=True)
class UnitOfWork:
    """What code inside a transaction works with. Repositories never commit; leaving the block does.

    Locks are taken in one order: batch rows by id, then their uploads, and at the end what their owners hold. No file
    or network I/O inside.
    """

    connection: "Connection"
    batches: Batches
    arrivals: Arrivals
    uploads: Uploads
    work: Work
    attempts: UploadAttempts
    receiving: ReceivingUploads
    objects: Objects
    usage: QuotaUsage
    quotas: Quotas
    service_keys: ServiceKeys
    api_keys: ApiKeys
    webhook_endpoints: WebhookEndpoints
    webhook_secrets: WebhookSecrets
    webhook_deliveries: WebhookDeliveries
    idempotency_keys: IdempotencyKeys
    idempotency_runs: IdempotencyRuns


def _bind(connection: "Connection") -> UnitOfWork:
    usage = QuotaUsage(connection)
    batches = Batches(connection, usage)
    return UnitOfWork(
        connection=connection,
        batches=batches,
        arrivals=Arrivals(connection, usage, batches),
        uploads=Uploads(connection, usage),
        work=Work(connection),
        attempts=UploadAttempts(connection),
        receiving=ReceivingUploads(connection, usage),
        objects=Objects(connection),
        usage=usage,
        quotas=Quotas(connection),
        service_keys=ServiceKeys(connection),
        api_keys=ApiKeys(connection),
        webhook_endpoints=WebhookEndpoints(connection),
        webhook_secrets=WebhookSecrets(connection),
        webhook_deliveries=WebhookDeliveries(connection),
        idempotency_keys=IdempotencyKeys(connection),
        idempotency_runs=IdempotencyRuns(connection),
    )


@asynccontextmanager
async def unit_of_work(database: "Database") -> AsyncGenerator[UnitOfWork]:
    """Open a transaction: committed on the way out, rolled back on any error.

    Raises QuotaExceededError where an owner would hold more than allowed, and DatabaseUnavailableError, after which it
    is unknown whether the transaction was committed.
    """
    async with database.transaction() as connection:
        uow = _bind(connection)
        yield uow
        await uow.usage.settle()


@asynccontextmanager
async def reading(database: "Database") -> AsyncGenerator[UnitOfWork]:
    """Lend repositories for single reads, each its own snapshot, and for writes that change nothing of what is held.

    Raises DatabaseUnavailableError.
    """
    async with database.connection() as connection:
        yield _bind(connection)
