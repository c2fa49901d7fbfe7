"""The base: `objects` and `uploads` of a service without batches.

An `uploads` table that stands there already (of an older service, with at least `id uuid`) is taken over: the columns
it lacks are added, its rows stay as they are, and of the CHECKs it gets those that its rows meet; the log names the
others. A row that had no owner gets the nil UUID, which is nobody.

Locks: nothing on an empty database; a table taken over is locked entirely while its CHECKs are read through.

The downgrade keeps both tables with all rows, because what is in them is nowhere else. Drop them by hand.
"""

from typing import Final

from alembic import op

revision: Final = "create_uploads"
down_revision: Final = None

OBJECTS: Final = """
CREATE TABLE IF NOT EXISTS objects (
    id uuid PRIMARY KEY,
    size_bytes bigint NOT NULL CONSTRAINT objects_size_not_negative CHECK (size_bytes >= 0),
    created_at timestamptz NOT NULL DEFAULT now()
)
"""

UPLOADS: Final = """
CREATE TABLE IF NOT EXISTS uploads (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    ref text,
    filename text NOT NULL,
    status varchar(50) NOT NULL DEFAULT 'pending',
    size_bytes bigint,
    received_bytes bigint NOT NULL DEFAULT 0,
    content_type text,
    detected_type text,
    sha256 bytea,
    width integer,
    height integer,
    attempts integer NOT NULL DEFAULT 0,
    error jsonb,
    metadata jsonb NOT NULL DEFAULT '{}',
    object_id uuid REFERENCES objects (id),
    object_offset bigint,
    queued_at timestamptz,
    lease_expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz
)
"""

# The table above has every column, so that this changes only one that stood there before. Without a `status`, what an
# older service keeps is what it has finished.
TAKE_OVER: Final = """
DO $$
DECLARE
    had text[] := ARRAY(
        SELECT attname::text FROM pg_attribute
        WHERE attrelid = 'uploads'::regclass AND attnum > 0 AND NOT attisdropped
    );
BEGIN
    IF NOT 'user_id' = ANY (had) THEN
        ALTER TABLE uploads ADD COLUMN user_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';
        ALTER TABLE uploads ALTER COLUMN user_id DROP DEFAULT;
    END IF;
    IF NOT 'filename' = ANY (had) THEN
        ALTER TABLE uploads ADD COLUMN filename text NOT NULL DEFAULT '';
        ALTER TABLE uploads ALTER COLUMN filename DROP DEFAULT;
    END IF;
    IF NOT 'status' = ANY (had) THEN
        ALTER TABLE uploads
            ADD COLUMN status varchar(50) NOT NULL DEFAULT 'completed',
            ADD COLUMN IF NOT EXISTS completed_at timestamptz DEFAULT now();
        ALTER TABLE uploads ALTER COLUMN status SET DEFAULT 'pending', ALTER COLUMN completed_at DROP DEFAULT;
    END IF;
    ALTER TABLE uploads
        ADD COLUMN IF NOT EXISTS ref text,
        ADD COLUMN IF NOT EXISTS size_bytes bigint,
        ADD COLUMN IF NOT EXISTS received_bytes bigint NOT NULL DEFAULT 0,
        ADD COLUMN IF NOT EXISTS content_type text,
        ADD COLUMN IF NOT EXISTS detected_type text,
        ADD COLUMN IF NOT EXISTS sha256 bytea,
        ADD COLUMN IF NOT EXISTS width integer,
        ADD COLUMN IF NOT EXISTS height integer,
        ADD COLUMN IF NOT EXISTS attempts integer NOT NULL DEFAULT 0,
        ADD COLUMN IF NOT EXISTS error jsonb,
        ADD COLUMN IF NOT EXISTS metadata jsonb NOT NULL DEFAULT '{}',
        ADD COLUMN IF NOT EXISTS object_id uuid REFERENCES objects (id),
        ADD COLUMN IF NOT EXISTS object_offset bigint,
        ADD COLUMN IF NOT EXISTS queued_at timestamptz,
        ADD COLUMN IF NOT EXISTS lease_expires_at timestamptz,
        ADD COLUMN IF NOT EXISTS created_at timestamptz NOT NULL DEFAULT now(),
        ADD COLUMN IF NOT EXISTS updated_at timestamptz NOT NULL DEFAULT now(),
        ADD COLUMN IF NOT EXISTS completed_at timestamptz;
    IF NOT 'object_offset' = ANY (had) THEN
        RAISE NOTICE 'create_uploads: uploads stood here before with % columns; those it lacked were added',
            cardinality(had);
    END IF;
END $$
"""

CHECKS: Final = {
    "uploads_status_known": "status IN ('receiving', 'pending', 'processing', 'completed', 'failed', 'cancelled')",
    "uploads_received_within_size": "received_bytes >= 0 AND (size_bytes IS NULL OR received_bytes <= size_bytes)",
    "uploads_sha256_is_32_bytes": "octet_length(sha256) = 32",
    "uploads_place_is_whole": "(object_id IS NULL) = (object_offset IS NULL) AND coalesce(object_offset, 0) >= 0",
    "uploads_stored_when_accepted": (
        "status NOT IN ('pending', 'processing', 'completed')"
        " OR object_id IS NOT NULL AND sha256 IS NOT NULL AND received_bytes IS NOT DISTINCT FROM size_bytes"
    ),
    "uploads_completed_at_when_final": (
        "(completed_at IS NOT NULL) = (status IN ('completed', 'failed', 'cancelled'))"
    ),
    "uploads_error_when_failed": "status <> 'failed' OR error IS NOT NULL",
    "uploads_lease_only_when_processing": "lease_expires_at IS NULL OR status = 'processing'",
}

ADD_CHECK: Final = """
DO $$
BEGIN
    ALTER TABLE uploads ADD CONSTRAINT {name} CHECK ({expression});
EXCEPTION
    WHEN duplicate_object THEN NULL;
    WHEN check_violation THEN
        RAISE WARNING 'create_uploads: uploads has older rows that break {name}; it goes without that CHECK';
END $$
"""

INDEXES: Final = (
    "CREATE INDEX IF NOT EXISTS idx_uploads_object_id ON uploads (object_id)",
    "CREATE INDEX IF NOT EXISTS idx_uploads_queued ON uploads (queued_at) WHERE status IN ('pending', 'processing')",
)

KEPT: Final = "DO $$ BEGIN RAISE NOTICE 'create_uploads: uploads and objects are kept with all their rows'; END $$"


def upgrade() -> None:
    """Make both tables, or take over the `uploads` that stands there."""
    op.execute(OBJECTS)
    op.execute(UPLOADS)
    op.execute(TAKE_OVER)
    for name, expression in CHECKS.items():
        op.execute(ADD_CHECK.format(name=name, expression=expression))
    for index in INDEXES:
        op.execute(index)


def downgrade() -> None:
    """Say that everything is kept."""
    op.execute(KEPT)
