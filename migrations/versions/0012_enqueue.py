"""Adding jobs as a function, so that one statement stores files and has them processed.

What it runs is PgQueuer's own statement; where a release of it has another one, a migration makes these anew.

Locks: none that anybody waits for.
"""

from typing import Final

from alembic import op

from app.jobs.queue import enqueue_sql

revision: Final = "enqueue"
down_revision: Final = "idempotency"

# plpgsql, because it keeps the plan of what it runs.
ENQUEUE: Final = """
CREATE OR REPLACE FUNCTION boatload_queue.enqueue(
    priorities int[], entrypoints text[], payloads bytea[], delays interval[], dedupe_keys text[], headers jsonb[]
) RETURNS TABLE (queued_as bigint, queued_id bigint) LANGUAGE plpgsql AS $enqueue$
#variable_conflict use_column
BEGIN
    RETURN QUERY {query};
END $enqueue$
"""

ENQUEUE_UPLOADS: Final = """
CREATE OR REPLACE FUNCTION boatload_queue.enqueue_uploads(jobs bytea[]) RETURNS integer LANGUAGE plpgsql AS $enqueue$
DECLARE
    size int[] := ARRAY[cardinality(jobs)];
BEGIN
    PERFORM boatload_queue.enqueue(
        array_fill(0, size), array_fill('process_uploads'::text, size), jobs, array_fill(interval '0', size),
        array_fill(NULL::text, size), array_fill('null'::jsonb, size)
    );
    RETURN size[1];
END $enqueue$
"""


def upgrade() -> None:
    """Make both functions, or make them anew."""
    op.execute(ENQUEUE.format(query=enqueue_sql()).replace(":", r"\:"))  # a colon alone would begin a parameter
    op.execute(ENQUEUE_UPLOADS.replace(":", r"\:"))


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP FUNCTION IF EXISTS boatload_queue.enqueue_uploads(bytea[])")
    op.execute("DROP FUNCTION IF EXISTS boatload_queue.enqueue(int[], text[], bytea[], interval[], text[], jsonb[])")
