"""Which processors a batch asked for, where it asked for any."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from uuid import UUID

from app.db.pool import Database
from app.repositories.unit_of_work import reading

Choices = Callable[[Collection[UUID]], Awaitable[Mapping[UUID, tuple[str, ...]]]]
"""Returns the choice of each of the batches that made one. May raise DatabaseUnavailableError."""


def choices_of(database: Database) -> Choices:
    """Return what reads the choices from the batches' rows, as a set."""

    async def read(batch_ids: Collection[UUID]) -> Mapping[UUID, tuple[str, ...]]:
        if not batch_ids:
            return {}
        async with reading(database) as uow:
            return await uow.batches.processors_of(batch_ids)

    return read
