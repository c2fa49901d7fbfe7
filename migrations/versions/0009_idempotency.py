"""Requests that came with an Idempotency-Key: what they were, what they were answered, and which parts are kept.

The downgrade drops the CHECKs and the index. It keeps the tables and all data: an older service runs beside them, and
down and up again loses nothing; keys that ran out meanwhile are swept after the next upgrade.

Locks: none but on the new tables.
"""

from typing import Final

from alembic import op

revision: Final = "idempotency"
down_revision: Final = "quotas"

TABLES: Final = """
DO $$
BEGIN
    CREATE TABLE IF NOT EXISTS idempotency_keys (
        id uuid PRIMARY KEY,
        user_id uuid NOT NULL,
        key text NOT NULL,
        fingerprint bytea NOT NULL,
        status smallint,
        headers jsonb,
        body bytea,
        batch_id uuid,
        opened boolean NOT NULL DEFAULT false,
        parts integer NOT NULL DEFAULT 0,
        expires_at timestamptz NOT NULL,
        UNIQUE (user_id, key)
    );
    CREATE TABLE IF NOT EXISTS idempotency_runs (
        key_id uuid NOT NULL REFERENCES idempotency_keys (id) ON DELETE CASCADE,
        first integer NOT NULL,
        taken integer NOT NULL,
        fingerprints bytea NOT NULL,
        results bytea NOT NULL,
        PRIMARY KEY (key_id, first)
    );
    -- Compressed they would take longer than the files that they speak of.
    ALTER TABLE idempotency_runs ALTER COLUMN results SET STORAGE EXTERNAL;
END $$
"""

CHECKS: Final = {
    "idempotency_keys": {
        "idempotency_keys_key_is_short": "length(key) BETWEEN 1 AND 255",
        "idempotency_keys_fingerprint_is_32_bytes": "octet_length(fingerprint) = 32",
        "idempotency_keys_answer_is_whole": (
            "(status IS NULL) = (headers IS NULL) AND (status IS NULL OR body IS NOT NULL)"
        ),
        "idempotency_keys_answered_or_in_a_batch": "(status IS NULL) = (batch_id IS NOT NULL)",
        "idempotency_keys_parts_not_negative": "parts >= 0",
    },
    "idempotency_runs": {
        "idempotency_runs_some_parts": "octet_length(fingerprints) > 0 AND octet_length(fingerprints) % 32 = 0",
        "idempotency_runs_counts": "first >= 0 AND taken BETWEEN 0 AND octet_length(fingerprints) / 32",
    },
}

INDEXES: Final = {"idx_idempotency_keys_expiring": "idempotency_keys (expires_at)"}


def upgrade() -> None:
    """Make what is not there."""
    op.execute(TABLES)
    for table, rules in CHECKS.items():
        for name, expression in rules.items():
            op.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")
            op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({expression})")
    for name, definition in INDEXES.items():
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {definition}")


def downgrade() -> None:
    """Drop the rules and the index; every table and row stays."""
    for name in INDEXES:
        op.execute(f"DROP INDEX IF EXISTS {name}")
    for table, rules in CHECKS.items():
        for name in rules:
            op.execute(f"ALTER TABLE IF EXISTS {table} DROP CONSTRAINT IF EXISTS {name}")
