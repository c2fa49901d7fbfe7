"""Thumbnails, and which processors a batch chose.

A thumbnail lies in an object, like the bytes of an upload do; the foreign key keeps that object from being removed.

The downgrade drops the CHECK alone. An older service runs beside the columns, and must not remove the objects that
thumbnails lie in: so the foreign key stays, and the index that makes it cheap to ask.

Locks: `upload_batches` and `uploads` entirely; `uploads` is read through once, for its CHECK and the index.
"""

from typing import Final

from alembic import op

revision: Final = "processors"
down_revision: Final = "worker_guards"

COLUMNS: Final = """
DO $$
BEGIN
    LOCK TABLE upload_batches, uploads IN ACCESS EXCLUSIVE MODE;
    ALTER TABLE upload_batches ADD COLUMN IF NOT EXISTS processors text[];
    ALTER TABLE uploads
        ADD COLUMN IF NOT EXISTS thumbnail_object_id uuid REFERENCES objects (id),
        ADD COLUMN IF NOT EXISTS thumbnail_offset bigint,
        ADD COLUMN IF NOT EXISTS thumbnail_bytes integer;
    ALTER TABLE uploads DROP CONSTRAINT IF EXISTS uploads_thumbnail_is_whole;
    ALTER TABLE uploads ADD CONSTRAINT uploads_thumbnail_is_whole CHECK (
        num_nulls(thumbnail_object_id, thumbnail_offset, thumbnail_bytes) IN (0, 3)
        AND coalesce(thumbnail_offset, 0) >= 0 AND coalesce(thumbnail_bytes, 1) > 0
    );
END $$
"""

INDEX: Final = """
CREATE INDEX IF NOT EXISTS idx_uploads_thumbnail_object_id ON uploads (thumbnail_object_id)
WHERE thumbnail_object_id IS NOT NULL
"""


def upgrade() -> None:
    """Add the columns, the CHECK and the index."""
    op.execute(COLUMNS)
    op.execute(INDEX)


def downgrade() -> None:
    """Drop the CHECK; every column and row stays."""
    op.execute("ALTER TABLE uploads DROP CONSTRAINT IF EXISTS uploads_thumbnail_is_whole")
