"""A key is found by index among fifty thousand, and so are its parts, and those that have expired."""

from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import asyncpg

from app.repositories import idempotency_keys, idempotency_runs
from tests.support.postgres import execute

KEY: Final = UUID(int=7)
FILL: Final = (
    """
    INSERT INTO idempotency_keys (id, user_id, key, fingerprint, batch_id, parts, expires_at)
    SELECT lpad(to_hex(n), 32, '0')::uuid, lpad(to_hex(n % 10), 32, '0')::uuid, 'key ' || n, sha256('x'),
        gen_random_uuid(), 3, timestamptz '2026-01-01' + n * interval '1 minute'
    FROM generate_series(1, 50000) n
    """,
    """
    INSERT INTO idempotency_runs (key_id, first, taken, fingerprints, results)
    SELECT k.id, first, 1, sha256('x'), '{}' FROM idempotency_keys k, generate_series(0, 2) first
    """,
    "VACUUM ANALYZE idempotency_keys, idempotency_runs",
)
STATEMENTS: Final[dict[str, tuple[str, tuple[object, ...], str]]] = {
    "find": (idempotency_keys.FIND, (KEY, "key 7"), "idempotency_keys_user_id_key_key"),
    "expired": (
        idempotency_keys.DELETE_EXPIRED,
        (datetime(2026, 1, 1, 0, 30, tzinfo=UTC), 1000),
        "idx_idempotency_keys_expiring",
    ),
    "parts": (idempotency_runs.FINGERPRINTS, (KEY,), "idempotency_runs_pkey"),
    "results": (idempotency_runs.RESULTS, (KEY, 2), "idempotency_runs_pkey"),
}


async def test_every_look_goes_by_index(database_url: str) -> None:
    execute(database_url, *FILL)
    connection = await asyncpg.connect(database_url)
    try:
        for name, (statement, arguments, index) in STATEMENTS.items():
            rows = await connection.fetch(f"EXPLAIN {statement}", *arguments)
            plan = "\n".join(row[0] for row in rows)
            assert index in plan, (name, plan)
            assert "Seq Scan on idempotency" not in plan, (name, plan)
    finally:
        await connection.close()
