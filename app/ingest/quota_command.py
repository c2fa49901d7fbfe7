"""What `boatload quotas` does."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final
from uuid import UUID

from app.db.pool import Database
from app.domain.quota import RESOURCES, UNLIMITED, Quota
from app.ingest.quotas import QuotaService
from app.repositories.quota_usage import NOBODY

_WORDS: Final = {"unlimited": UNLIMITED, "default": None}


@asynccontextmanager
async def _service(dsn: str) -> AsyncGenerator[QuotaService]:
    database = await Database.open(dsn, size=1)
    try:
        yield QuotaService(database)
    finally:
        await database.close()


def limits_of(given: Mapping[str, str | None]) -> dict[str, int | None]:
    """Return the limits that are given: numbers, `unlimited`, or `default` for that of everybody. Raises ValueError."""
    limits = {name: _limit(text) for name, text in given.items() if text is not None}
    if not limits:
        raise ValueError("Name at least one limit.")
    return limits


async def change(dsn: str, owner: UUID, limits: Mapping[str, int | None]) -> None:
    """Change those limits of an owner that are named."""
    async with _service(dsn) as quotas:
        known = (await quotas.list_all()).get(owner, Quota())
        await quotas.set(owner, replace(known, **limits))


async def lines(dsn: str) -> list[str]:
    """Return what is set, and what the owners who are named hold of it."""
    async with _service(dsn) as quotas:
        return [await _line(quotas, owner, quota) for owner, quota in (await quotas.list_all()).items()]


async def recount(dsn: str) -> None:
    """Count anew what owners hold; until that is done nobody else writes."""
    async with _service(dsn) as quotas:
        await quotas.recount()


async def _line(quotas: QuotaService, owner: UUID, quota: Quota) -> str:
    standing = None if owner == NOBODY else await quotas.find(owner)
    limits = (
        f"{name} {_word(getattr(quota, name))}" + (f" ({getattr(standing.used, name)} used)" if standing else "")
        for name in RESOURCES
    )
    return "  ".join(["everybody" if owner == NOBODY else str(owner), *limits])


def _limit(text: str) -> int | None:
    if text in _WORDS:
        return _WORDS[text]
    if not (text.isascii() and text.isdecimal()) or int(text) > UNLIMITED:
        raise ValueError(f"{text!r} is no limit: give a number, 'unlimited' or 'default'.")
    return int(text)


def _word(limit: int | None) -> str:
    return next((word for word, meaning in _WORDS.items() if limit == meaning), str(limit))
