"""Quotas: how much owners may hold, and what they do hold, which is counted from when the first quota is set.

The downgrade drops what is counted, because an older service would not go on counting, and keeps the quotas. After down
and up again nothing is counted until a service that has quotas starts, or `boatload quotas recount` is run.

Locks: nothing that stood before.
"""

from typing import Final

from alembic import op

revision: Final = "quotas"
down_revision: Final = "credentials"

# NULL: as for everybody, whose row is that of the nil UUID; and there, no limit.
QUOTAS: Final = """
CREATE TABLE IF NOT EXISTS quotas (
    user_id uuid PRIMARY KEY,
    bytes bigint CONSTRAINT quotas_bytes_not_negative CHECK (bytes >= 0),
    files bigint CONSTRAINT quotas_files_not_negative CHECK (files >= 0),
    open_batches bigint CONSTRAINT quotas_open_batches_not_negative CHECK (open_batches >= 0),
    open_uploads bigint CONSTRAINT quotas_open_uploads_not_negative CHECK (open_uploads >= 0)
)
"""

# Each row is written again and again, none of it indexed: room on its page keeps that cheap.
USAGE: Final = """
CREATE TABLE IF NOT EXISTS quota_usage (
    user_id uuid PRIMARY KEY,
    bytes bigint NOT NULL,
    files bigint NOT NULL,
    open_batches bigint NOT NULL,
    open_uploads bigint NOT NULL
) WITH (fillfactor = 50)
"""


def upgrade() -> None:
    """Make both tables."""
    op.execute(QUOTAS)
    op.execute(USAGE)


def downgrade() -> None:
    """Forget what was counted."""
    op.execute("DROP TABLE IF EXISTS quota_usage")
