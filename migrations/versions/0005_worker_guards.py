"""Guards of the work: when an upload is tried again, what of its attempts counts, and how each of them ended.

The downgrade drops the CHECKs and the indexes. It keeps the columns and the history, beside which an older service
runs: what waits for another attempt is tried at once then.

Locks: `uploads` entirely, read through once for each CHECK and each index; of its rows, those are written in which an
older service broke a rule after a downgrade.
"""

from typing import Final

from alembic import op

revision: Final = "worker_guards"
down_revision: Final = "job_queue"

COLUMNS: Final = """
ALTER TABLE uploads
    ADD COLUMN IF NOT EXISTS attempts_before integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS retry_at timestamptz,
    ADD COLUMN IF NOT EXISTS last_error jsonb
"""

ATTEMPTS: Final = """
CREATE TABLE IF NOT EXISTS upload_attempts (
    upload_id uuid NOT NULL REFERENCES uploads (id) ON DELETE CASCADE,
    attempt integer NOT NULL,
    ended_at timestamptz NOT NULL,
    code text NOT NULL,
    detail text NOT NULL,
    worker text,
    PRIMARY KEY (upload_id, attempt)
)
"""

# An older service counts down what it gives back, and knows nothing of waiting.
REPAIR: Final = """
UPDATE uploads SET
    attempts_before = least(attempts_before, attempts), retry_at = CASE WHEN status = 'pending' THEN retry_at END
WHERE attempts_before > attempts OR (retry_at IS NOT NULL AND status IS DISTINCT FROM 'pending')
"""

CHECKS: Final = {
    "uploads_attempts_before_within": "attempts_before >= 0 AND attempts_before <= attempts",
    "uploads_retry_only_when_pending": "retry_at IS NULL OR status = 'pending'",
}

INDEXES: Final = {
    "idx_uploads_retry": "(retry_at) WHERE retry_at IS NOT NULL",
    "idx_uploads_lease": "(lease_expires_at) WHERE status = 'processing'",
}


def upgrade() -> None:
    """Add the columns, the history and the rules."""
    op.execute(COLUMNS)
    op.execute(ATTEMPTS)
    op.execute(REPAIR)
    for name, expression in CHECKS.items():
        op.execute(f"ALTER TABLE uploads DROP CONSTRAINT IF EXISTS {name}")
        op.execute(f"ALTER TABLE uploads ADD CONSTRAINT {name} CHECK ({expression})")
    for name, definition in INDEXES.items():
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON uploads {definition}")


def downgrade() -> None:
    """Drop the rules and the indexes; every column and row stays."""
    for name in INDEXES:
        op.execute(f"DROP INDEX IF EXISTS {name}")
    for name in CHECKS:
        op.execute(f"ALTER TABLE uploads DROP CONSTRAINT IF EXISTS {name}")
