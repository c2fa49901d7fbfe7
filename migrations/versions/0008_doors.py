"""Uploads that are declared before their bytes come, and bytes that are found again by their digest.

The downgrade drops the indexes and the CHECK and keeps every column and all data: an older service runs beside columns
that may be null or have defaults, and down and up again loses nothing.

Locks: `uploads` entirely; it is read through once for each of the two indexes and once for the CHECK.
"""

from typing import Final

from alembic import op

revision: Final = "doors"
down_revision: Final = "webhooks"

COLUMNS: Final = """
ALTER TABLE uploads
    ADD COLUMN IF NOT EXISTS declared_sha256 bytea,
    ADD COLUMN IF NOT EXISTS partial boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS expires_at timestamptz,
    ADD COLUMN IF NOT EXISTS takeover uuid
"""

CHECKS: Final = {
    "uploads_declared_sha256_is_32_bytes": "octet_length(declared_sha256) = 32",
    "uploads_partial_is_no_file": (
        "NOT partial OR (batch_id IS NULL AND status IN ('receiving', 'failed', 'cancelled'))"
    ),
}

INDEXES: Final = {
    "idx_uploads_stored_bytes": (
        "INDEX {} ON uploads (user_id, sha256, size_bytes) WHERE sha256 IS NOT NULL AND object_id IS NOT NULL"
    ),
    "idx_uploads_expiring": "INDEX {} ON uploads (expires_at) WHERE status = 'receiving'",
}


def upgrade() -> None:
    """Add what is declared of an upload, and the ways to find bytes and what has expired."""
    op.execute(COLUMNS)
    for name, expression in CHECKS.items():
        op.execute(f"ALTER TABLE uploads DROP CONSTRAINT IF EXISTS {name}")
        op.execute(f"ALTER TABLE uploads ADD CONSTRAINT {name} CHECK ({expression})")
    for name, definition in INDEXES.items():
        op.execute("CREATE " + definition.format(f"IF NOT EXISTS {name}"))


def downgrade() -> None:
    """Drop the rules and the indexes; every column and row stays."""
    for name in INDEXES:
        op.execute(f"DROP INDEX IF EXISTS {name}")
    for name in CHECKS:
        op.execute(f"ALTER TABLE uploads DROP CONSTRAINT IF EXISTS {name}")
