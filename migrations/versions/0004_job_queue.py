"""PgQueuer's tables, in a schema of their own.

The queue may lose everything: what it held is found again from `uploads`. So the downgrade drops the whole schema.

Locks: none that anybody waits for; the schema is new, or going.
"""

from typing import Final

from alembic import op

from app.jobs.queue import install_sql

revision: Final = "job_queue"
down_revision: Final = "batch_account"

INSTALL: Final = """
DO $boatload$
BEGIN
    IF to_regclass('boatload_queue.pgqueuer') IS NULL THEN
        EXECUTE $install$
{ddl}
$install$;
    END IF;
END $boatload$
"""


def upgrade() -> None:
    """Install what the PgQueuer release in use asks for, unless it is there."""
    op.execute(INSTALL.format(ddl=install_sql()).replace(":", r"\:"))  # a colon alone would begin a parameter


def downgrade() -> None:
    """Drop the queue with all jobs in it."""
    op.execute("DROP SCHEMA IF EXISTS boatload_queue CASCADE")
