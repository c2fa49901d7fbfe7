"""Every SQL constant is valid on the migrated schema, and what it returns is what the mappers read."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Final, LiteralString

import asyncpg
import pytest

from app import repositories
from app.domain.access import ApiKey
from app.domain.batch import Batch
from app.domain.upload import Upload
from app.domain.webhook import Delivery, Endpoint
from app.jobs import queue
from app.repositories import api_keys, batches, idempotency_keys, uploads, webhook_deliveries, webhook_endpoints
from app.repositories.idempotency_keys import Keyed
from app.repositories.webhook_deliveries import Claimed

DECLARED: Final = ["declared_sha256", "partial", "expires_at", "takeover", "batch_status"]
"""What else is read of an upload whose bytes are still to come."""
VERBS: Final = r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b"
MAPPED: Final = (
    (batches, Batch, 3),
    (uploads, Upload, 4),
    (api_keys, ApiKey, 3),
    (webhook_endpoints, Endpoint, 3),
    (webhook_deliveries, Delivery, 3),
    (idempotency_keys, Keyed, 1),
)
WORKERS_OWN: Final = {
    "api_keys": {"digest"},
    "upload_batches": {"webhook_url", "processors"},
    "uploads": {"queued_at", "lease_expires_at", "attempts_before", "retry_at", "last_error"},
    "webhook_deliveries": {"receiver", "payload", "attempts", "failures", "sending", "begun_at"},
}
FRAGMENTS: Final = {
    *(f"{module.__name__}.COLUMNS" for module, _, _ in MAPPED),
    "app.repositories.receiving.MORE",
    "app.repositories.uploads.CHOSEN",
    "app.repositories.quota_usage.HOLDING",
    "app.repositories.quota_usage.COUNTED",
    "app.repositories.quota_usage.COUNTING",
    "app.repositories.uploads.LET_GO",
    "app.repositories.batches.SET",
    "app.repositories.batches.TOLD",
}
NO_SQL: Final = {"app.repositories.batches.CHANNEL"}


def modules() -> list[ModuleType]:
    found = pkgutil.walk_packages(repositories.__path__, "app.repositories.")
    return [importlib.import_module(module.name) for module in found] + [queue]


def constants() -> Iterator[tuple[str, LiteralString]]:
    for module in modules():
        for name, annotation in module.__annotations__.items():
            if annotation == Final[LiteralString]:
                yield f"{module.__name__}.{name}", vars(module)[name]


STATEMENTS: Final = {name: sql for name, sql in constants() if re.match(VERBS, sql)}


async def returned_by(url: str) -> dict[str, list[str]]:
    """The columns of each statement, by its name; or in their place what PostgreSQL says against it."""
    connection = await asyncpg.connect(url)
    columns = {}
    try:
        for name, sql in STATEMENTS.items():
            try:
                statement = await connection.prepare(sql)
            except asyncpg.PostgresError as error:
                columns[name] = [f"REFUSED {error}"]
            else:
                columns[name] = [attribute.name for attribute in statement.get_attributes()]
    finally:
        await connection.close()
    return columns


def test_no_constant_escapes_the_search() -> None:
    assert {name for name, _ in constants()} == STATEMENTS.keys() | FRAGMENTS | NO_SQL
    assert len(STATEMENTS) >= 20
    for module in modules():
        texts = {
            value: name for name, value in vars(module).items() if isinstance(value, str) and re.match(VERBS, value)
        }
        missing = [name for value, name in texts.items() if value not in STATEMENTS.values()]
        assert missing == [], f"{module.__name__}: annotate them Final[LiteralString]"


async def test_every_statement_prepares_on_the_migrated_schema(database_url: str) -> None:
    columns = await returned_by(database_url)
    assert {name: found for name, found in columns.items() if found[:1] and found[0].startswith("REFUSED")} == {}


async def test_mapped_statements_return_exactly_the_fields(database_url: str) -> None:
    columns = await returned_by(database_url)
    for module, entity, at_least in MAPPED:
        wanted = list(entity.__annotations__)
        mapped = [name for name, sql in STATEMENTS.items() if module.COLUMNS in sql]
        assert len(mapped) >= at_least
        for name in mapped:
            extra = ["status_before", "counted"] if name == "app.repositories.work.CLAIM" else []
            more = DECLARED if name.startswith("app.repositories.receiving.") else []
            assert columns[name] == extra + wanted + more, name
    assert columns["app.repositories.webhook_deliveries.CLAIM"] == list(Claimed.__annotations__)


@pytest.mark.parametrize("postgres_version", ["18"], indirect=True)
@pytest.mark.parametrize(
    ("table", "entity"),
    [
        ("upload_batches", Batch),
        ("uploads", Upload),
        ("api_keys", ApiKey),
        ("webhook_endpoints", Endpoint),
        ("webhook_deliveries", Delivery),
        ("idempotency_keys", Keyed),
    ],
)
async def test_the_dataclass_has_each_column_that_is_not_the_workers_own(
    database_url: str, table: str, entity: type
) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch("SELECT column_name FROM information_schema.columns WHERE table_name = $1", table)
    finally:
        await connection.close()
    found = {row["column_name"] for row in rows} - WORKERS_OWN.get(table, set())
    assert found - (set(DECLARED) if entity is Upload else set()) == set(entity.__annotations__)
