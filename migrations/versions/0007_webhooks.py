"""Webhooks: who is told of an owner's batches, the secrets, and an outbox of messages with the log of their attempts.

The downgrade drops the CHECKs and the indexes. It keeps the tables, the column and all data: an older service runs
beside them, and down and up again loses nothing. Messages that wait meanwhile are sent after the next upgrade.

Locks: `upload_batches` entirely, for a moment: a column without a default is added, and no row is read or written.
"""

from typing import Final

from alembic import op

revision: Final = "webhooks"
down_revision: Final = "processors"

TABLES: Final = """
DO $$
BEGIN
    ALTER TABLE upload_batches ADD COLUMN IF NOT EXISTS webhook_url text;
    CREATE TABLE IF NOT EXISTS webhook_endpoints (
        id uuid PRIMARY KEY,
        user_id uuid NOT NULL,
        url text NOT NULL,
        events text[] NOT NULL,
        created_at timestamptz NOT NULL,
        disabled_at timestamptz
    );
    CREATE TABLE IF NOT EXISTS webhook_secrets (
        user_id uuid PRIMARY KEY,
        current text NOT NULL,
        older jsonb NOT NULL DEFAULT '[]',
        updated_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE IF NOT EXISTS webhook_deliveries (
        id uuid PRIMARY KEY,
        user_id uuid NOT NULL,
        batch_id uuid NOT NULL,
        endpoint_id uuid,
        type text NOT NULL,
        url text NOT NULL,
        receiver text NOT NULL,
        payload text NOT NULL,
        status text NOT NULL DEFAULT 'pending',
        attempts integer NOT NULL DEFAULT 0,
        failures integer NOT NULL DEFAULT 0,
        sending boolean NOT NULL DEFAULT false,
        log jsonb NOT NULL DEFAULT '[]',
        reason text,
        created_at timestamptz NOT NULL,
        begun_at timestamptz NOT NULL,
        due_at timestamptz NOT NULL,
        finished_at timestamptz
    );
END $$
"""

CHECKS: Final = {
    "webhook_deliveries": {
        "webhook_deliveries_status_known": "status IN ('pending', 'delivered', 'given_up')",
        "webhook_deliveries_finished_at_when_over": "(finished_at IS NULL) = (status = 'pending')",
        "webhook_deliveries_reason_when_given_up": "(reason IS NOT NULL) = (status = 'given_up')",
        "webhook_deliveries_counts_not_negative": "least(attempts, failures) >= 0",
    },
    "webhook_endpoints": {"webhook_endpoints_some_event": "cardinality(events) > 0"},
}

INDEXES: Final = {
    "idx_webhook_endpoints_owner": "webhook_endpoints (user_id, created_at, id)",
    "idx_webhook_deliveries_due": "webhook_deliveries (receiver, due_at) WHERE status = 'pending'",
    "idx_webhook_deliveries_endpoint": "webhook_deliveries (endpoint_id) WHERE status = 'pending'",
    "idx_webhook_deliveries_finished": "webhook_deliveries (finished_at) WHERE finished_at IS NOT NULL",
    "idx_webhook_deliveries_owner_newest": "webhook_deliveries (user_id, created_at DESC, id DESC)",
    "idx_webhook_deliveries_owner_status": "webhook_deliveries (user_id, status, created_at DESC, id DESC)",
    "idx_webhook_deliveries_batch": "webhook_deliveries (batch_id, created_at DESC, id DESC)",
}


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
    """Drop the rules and the indexes; every table, column and row stays."""
    for name in INDEXES:
        op.execute(f"DROP INDEX IF EXISTS {name}")
    for table, rules in CHECKS.items():
        for name in rules:
            op.execute(f"ALTER TABLE IF EXISTS {table} DROP CONSTRAINT IF EXISTS {name}")
