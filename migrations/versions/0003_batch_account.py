"""The exact account: a count for each state, sizes, the version, the seal; and CHECKs that hold the counting rules.

Counts and states that an older service left wrong are put right first, from the rows, and the log says how many. A
batch that is changed goes one version up, and so do its uploads. A state that the CHECKs accept is never changed.

The downgrade drops the CHECKs and the indexes and lets `created_at` and `updated_at` be null again. It keeps every
column and all data: an older service runs beside columns that have defaults, and down and up again loses nothing.

Locks: `upload_batches` and `uploads` entirely, batches first as everywhere. `uploads` is read through for the counts
and once for each of three indexes; of its rows, those of batches that had to be put right are written.
"""

from typing import Final

from alembic import op

revision: Final = "batch_account"
down_revision: Final = "add_batch_support"

COLUMNS: Final = """
DO $$
BEGIN
    LOCK TABLE upload_batches, uploads IN ACCESS EXCLUSIVE MODE;
    ALTER TABLE upload_batches
        ADD COLUMN IF NOT EXISTS label text,
        ADD COLUMN IF NOT EXISTS expected_uploads integer,
        ADD COLUMN IF NOT EXISTS metadata jsonb NOT NULL DEFAULT '{}',
        ADD COLUMN IF NOT EXISTS receiving_uploads integer NOT NULL DEFAULT 0,
        ADD COLUMN IF NOT EXISTS pending_uploads integer NOT NULL DEFAULT 0,
        ADD COLUMN IF NOT EXISTS processing_uploads integer NOT NULL DEFAULT 0,
        ADD COLUMN IF NOT EXISTS cancelled_uploads integer NOT NULL DEFAULT 0,
        ADD COLUMN IF NOT EXISTS total_bytes bigint NOT NULL DEFAULT 0,
        ADD COLUMN IF NOT EXISTS received_bytes bigint NOT NULL DEFAULT 0,
        ADD COLUMN IF NOT EXISTS version bigint NOT NULL DEFAULT 1,
        ADD COLUMN IF NOT EXISTS sealed_at timestamptz,
        ADD COLUMN IF NOT EXISTS expires_at timestamptz;
    ALTER TABLE uploads ADD COLUMN IF NOT EXISTS batch_version bigint NOT NULL DEFAULT 0;
    UPDATE upload_batches SET
        created_at = coalesce(created_at, started_at, completed_at, updated_at, now()),
        updated_at = coalesce(updated_at, completed_at, started_at, created_at, now())
    WHERE created_at IS NULL OR updated_at IS NULL;
    ALTER TABLE upload_batches
        ALTER COLUMN created_at SET NOT NULL, ALTER COLUMN created_at SET DEFAULT now(),
        ALTER COLUMN updated_at SET NOT NULL, ALTER COLUMN updated_at SET DEFAULT now();
END $$
"""

# Only an `uploads` table that create_uploads took over can hold a status of its own. A batch must count every upload.
KNOWN_STATES: Final = """
DO $$
DECLARE
    relabelled bigint;
BEGIN
    UPDATE uploads SET
        status = 'failed', completed_at = coalesce(completed_at, now()), lease_expires_at = NULL, updated_at = now(),
        error = jsonb_build_object('code', 'unknown-status', 'detail', format('An older service called it %L.', status))
    WHERE batch_id IS NOT NULL AND (
        status IS NULL OR status NOT IN ('receiving', 'pending', 'processing', 'completed', 'failed', 'cancelled')
    );
    GET DIAGNOSTICS relabelled = ROW_COUNT;
    IF relabelled > 0 THEN
        RAISE NOTICE 'batch_account: % uploads had an unknown status and are failed now; their error names it',
            relabelled;
    END IF;
END $$
"""

# A finished batch in which something is open goes back to processing, as after a retry; one in which all is over but
# some was cancelled counts as cancelled.
RECOUNT: Final = """
DO $$
DECLARE
    repaired bigint;
    batches bigint;
BEGIN
    WITH counted AS (
        SELECT
            batch_id,
            count(*) AS total,
            count(*) FILTER (WHERE status = 'receiving') AS receiving,
            count(*) FILTER (WHERE status = 'pending') AS pending,
            count(*) FILTER (WHERE status = 'processing') AS processing,
            count(*) FILTER (WHERE status = 'completed') AS successful,
            count(*) FILTER (WHERE status = 'failed') AS failed,
            count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
            count(*) FILTER (WHERE status IN ('completed', 'failed')) AS processed,
            sum(size_bytes) AS total_bytes,
            sum(received_bytes) AS received_bytes
        FROM uploads WHERE batch_id IS NOT NULL GROUP BY batch_id
    ), account AS (
        SELECT
            b.id,
            CASE
                WHEN b.status = 'cancelled' THEN 'cancelled'
                WHEN b.status IN ('completed', 'failed') AND coalesce(c.processed = c.total, true) THEN b.status
                WHEN b.status NOT IN ('pending', 'processing') AND c.cancelled > 0
                    AND c.processed + c.cancelled = c.total THEN 'cancelled'
                WHEN b.status NOT IN ('pending', 'processing') AND b.completed_at IS NOT NULL
                    AND coalesce(c.processed = c.total, true)
                    THEN CASE WHEN coalesce(c.successful > 0, true) THEN 'completed' ELSE 'failed' END
                WHEN b.status = 'processing' OR c.total > 0 THEN 'processing'
                ELSE 'pending'
            END AS status,
            coalesce(c.total, 0) AS total,
            coalesce(c.receiving, 0) AS receiving,
            coalesce(c.pending, 0) AS pending,
            coalesce(c.processing, 0) AS processing,
            coalesce(c.processed, 0) AS processed,
            coalesce(c.successful, 0) AS successful,
            coalesce(c.failed, 0) AS failed,
            coalesce(c.cancelled, 0) AS cancelled,
            coalesce(c.total_bytes, 0) AS total_bytes,
            coalesce(c.received_bytes, 0) AS received_bytes
        FROM upload_batches b LEFT JOIN counted c ON c.batch_id = b.id
    ), dated AS (
        SELECT
            a.*,
            CASE WHEN a.status IN ('completed', 'failed', 'cancelled')
                THEN coalesce(b.completed_at, b.updated_at) END AS completed_at,
            CASE WHEN 'completed' IN (a.status, b.status) OR 'failed' IN (a.status, b.status)
                THEN coalesce(b.sealed_at, b.completed_at, b.updated_at) ELSE b.sealed_at END AS sealed_at
        FROM account a JOIN upload_batches b ON b.id = a.id
    ), repair AS (
        UPDATE upload_batches b SET
            status = d.status, total_uploads = d.total, receiving_uploads = d.receiving, pending_uploads = d.pending,
            processing_uploads = d.processing, processed_uploads = d.processed, successful_uploads = d.successful,
            failed_uploads = d.failed, cancelled_uploads = d.cancelled, total_bytes = d.total_bytes,
            received_bytes = d.received_bytes, completed_at = d.completed_at, sealed_at = d.sealed_at,
            version = b.version + 1, updated_at = now()
        FROM dated d
        WHERE d.id = b.id AND (
            b.status, b.total_uploads, b.receiving_uploads, b.pending_uploads, b.processing_uploads,
            b.processed_uploads, b.successful_uploads, b.failed_uploads, b.cancelled_uploads, b.total_bytes,
            b.received_bytes, b.completed_at, b.sealed_at
        ) IS DISTINCT FROM (
            d.status, d.total, d.receiving, d.pending, d.processing, d.processed, d.successful, d.failed,
            d.cancelled, d.total_bytes, d.received_bytes, d.completed_at, d.sealed_at
        )
        RETURNING b.id, b.version
    ), touched AS (
        UPDATE uploads SET batch_version = repair.version FROM repair WHERE uploads.batch_id = repair.id
    )
    SELECT count(*), (SELECT count(*) FROM upload_batches) INTO repaired, batches FROM repair;
    UPDATE uploads SET batch_version = b.version
    FROM upload_batches b WHERE uploads.batch_id = b.id AND uploads.batch_version = 0;
    RAISE NOTICE 'batch_account: % of % batches did not match their uploads and were put right', repaired, batches;
END $$
"""

CHECKS: Final = {
    "upload_batches_status_known": "status IN ('pending', 'processing', 'completed', 'failed', 'cancelled')",
    "upload_batches_counts_not_negative": (
        "least(total_uploads, receiving_uploads, pending_uploads, processing_uploads, processed_uploads,"
        " successful_uploads, failed_uploads, cancelled_uploads, total_bytes, received_bytes) >= 0"
    ),
    "upload_batches_counts_add_up": (
        "total_uploads = receiving_uploads + pending_uploads + processing_uploads + successful_uploads"
        " + failed_uploads + cancelled_uploads"
    ),
    "upload_batches_processed_adds_up": "processed_uploads = successful_uploads + failed_uploads",
    "upload_batches_pending_is_empty": "status <> 'pending' OR total_uploads = 0",
    "upload_batches_completed_at_when_final": (
        "(completed_at IS NOT NULL) = (status IN ('completed', 'failed', 'cancelled'))"
    ),
    "upload_batches_finished_when_processed": (
        "status NOT IN ('completed', 'failed') OR sealed_at IS NOT NULL AND processed_uploads = total_uploads"
    ),
    "upload_batches_expected_positive": "expected_uploads > 0",
}

INDEXES: Final = {
    "idx_upload_batches_owner_newest": "INDEX {} ON upload_batches (user_id, created_at DESC, id DESC)",
    "idx_upload_batches_owner_status": "INDEX {} ON upload_batches (user_id, status, created_at DESC, id DESC)",
    "idx_uploads_batch_version": "INDEX {} ON uploads (batch_id, batch_version, id)",
    "idx_uploads_batch_order": "INDEX {} ON uploads (batch_id, id)",
    "idx_uploads_batch_status": "INDEX {} ON uploads (batch_id, status, id)",
    "idx_uploads_batch_ref": "UNIQUE INDEX {} ON uploads (batch_id, ref) WHERE ref IS NOT NULL",
}

SERVICE_KEYS: Final = """
CREATE TABLE IF NOT EXISTS service_keys (
    name text PRIMARY KEY,
    key bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
)
"""

CURSOR_KEY: Final = """
INSERT INTO service_keys (name, key)
VALUES ('cursor', decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'))
ON CONFLICT (name) DO NOTHING
"""

LOOSEN: Final = """
ALTER TABLE upload_batches
    ALTER COLUMN created_at DROP NOT NULL,
    ALTER COLUMN updated_at DROP NOT NULL,
    ALTER COLUMN updated_at DROP DEFAULT
"""


def upgrade() -> None:
    """Add the account, make it true, and have the database hold it."""
    op.execute(COLUMNS)
    op.execute(KNOWN_STATES)
    op.execute(RECOUNT)
    for name, expression in CHECKS.items():
        op.execute(f"ALTER TABLE upload_batches DROP CONSTRAINT IF EXISTS {name}")
        op.execute(f"ALTER TABLE upload_batches ADD CONSTRAINT {name} CHECK ({expression})")
    for name, definition in INDEXES.items():
        op.execute("CREATE " + definition.format(f"IF NOT EXISTS {name}"))
    op.execute(SERVICE_KEYS)
    op.execute(CURSOR_KEY)


def downgrade() -> None:
    """Drop the rules and the indexes; every column and row stays."""
    for name in INDEXES:
        op.execute(f"DROP INDEX IF EXISTS {name}")
    for name in CHECKS:
        op.execute(f"ALTER TABLE upload_batches DROP CONSTRAINT IF EXISTS {name}")
    op.execute(LOOSEN)
