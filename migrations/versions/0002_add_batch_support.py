"""`upload_batches`, and the link from `uploads` to it.

Runs on its own over any `uploads` table that has an `id uuid` primary key, however full, and may run twice.

The downgrade drops the link's column and its index, keeps `upload_batches`, and first puts every link aside in
`upload_batch_links_aside`. The upgrade takes them back, where upload and batch still exist and no other link was set
since, and drops that table. Both log how many.

Locks: both tables entirely, batches first as everywhere, so that no link is made or lost meanwhile. The upgrade reads
`uploads` once for the index and once for the foreign key, and writes the rows whose link it takes back; the downgrade
reads it once.
"""

from typing import Final

from alembic import op

revision: Final = "add_batch_support"
down_revision: Final = "create_uploads"

BATCHES: Final = """
CREATE TABLE IF NOT EXISTS upload_batches (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    status varchar(50) NOT NULL DEFAULT 'pending',
    total_uploads integer NOT NULL DEFAULT 0,
    processed_uploads integer NOT NULL DEFAULT 0,
    successful_uploads integer NOT NULL DEFAULT 0,
    failed_uploads integer NOT NULL DEFAULT 0,
    error_message text,
    created_at timestamptz DEFAULT now(),
    started_at timestamptz,
    completed_at timestamptz,
    updated_at timestamptz
)
"""

INDEXES: Final = (
    "CREATE INDEX IF NOT EXISTS idx_upload_batches_user_id ON upload_batches (user_id)",
    "CREATE INDEX IF NOT EXISTS idx_upload_batches_status ON upload_batches (status)",
)

# The links come back before the foreign key: checking them all at once is much faster than one by one, and under the
# lock no batch can go meanwhile. A column that stood there before may lack the key, hence the look at the catalog.
LINK: Final = """
DO $$
DECLARE
    aside bigint := 0;
    restored bigint := 0;
BEGIN
    LOCK TABLE upload_batches, uploads IN ACCESS EXCLUSIVE MODE;
    ALTER TABLE uploads ADD COLUMN IF NOT EXISTS batch_id uuid;
    IF to_regclass('upload_batch_links_aside') IS NOT NULL THEN
        SELECT count(*) INTO aside FROM upload_batch_links_aside;
        UPDATE uploads SET batch_id = link.batch_id
        FROM upload_batch_links_aside link
        JOIN upload_batches ON upload_batches.id = link.batch_id
        WHERE uploads.id = link.upload_id AND uploads.batch_id IS NULL;
        GET DIAGNOSTICS restored = ROW_COUNT;
        DROP TABLE upload_batch_links_aside;
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_constraint
        WHERE contype = 'f' AND conrelid = 'uploads'::regclass AND confrelid = 'upload_batches'::regclass
    ) THEN
        ALTER TABLE uploads ADD CONSTRAINT uploads_batch_id_fkey
            FOREIGN KEY (batch_id) REFERENCES upload_batches (id) ON DELETE SET NULL;
    END IF;
    CREATE INDEX IF NOT EXISTS idx_uploads_batch_id ON uploads (batch_id);
    RAISE NOTICE 'add_batch_support: uploads are linked to upload_batches; % of % links put aside are back',
        restored, aside;
    IF restored < aside THEN
        RAISE NOTICE 'add_batch_support: % were not: their upload or batch is gone, or they were linked anew since',
            aside - restored;
    END IF;
END $$
"""

UNLINK: Final = """
DO $$
DECLARE
    aside bigint;
BEGIN
    LOCK TABLE upload_batches, uploads IN ACCESS EXCLUSIVE MODE;
    IF NOT EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = 'uploads'::regclass AND attname = 'batch_id' AND NOT attisdropped
    ) THEN
        RAISE NOTICE 'add_batch_support: uploads has no batch_id; nothing to put aside';
        RETURN;
    END IF;
    CREATE TABLE IF NOT EXISTS upload_batch_links_aside (upload_id uuid PRIMARY KEY, batch_id uuid NOT NULL);
    INSERT INTO upload_batch_links_aside (upload_id, batch_id)
    SELECT id, batch_id FROM uploads WHERE batch_id IS NOT NULL
    ON CONFLICT (upload_id) DO UPDATE SET batch_id = excluded.batch_id;
    GET DIAGNOSTICS aside = ROW_COUNT;
    DROP INDEX IF EXISTS idx_uploads_batch_id;
    ALTER TABLE uploads DROP COLUMN batch_id;
    RAISE NOTICE 'add_batch_support: % links put aside in upload_batch_links_aside; upload_batches is kept', aside;
END $$
"""


def upgrade() -> None:
    """Make `upload_batches`, link `uploads` to it, take back what an earlier downgrade put aside."""
    op.execute(BATCHES)
    for index in INDEXES:
        op.execute(index)
    op.execute(LINK)


def downgrade() -> None:
    """Put the links aside and drop their column; `upload_batches` stays."""
    op.execute(UNLINK)
