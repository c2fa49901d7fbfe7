"""Large tables, which all statements have to find their few rows in.

120,000 uploads: a thousand ordinary batches, and last one of 30,000, whose first ids are behind all the others. One
owner has half the batches. 12,000 uploads are pending and have their jobs, 500 are being processed. 60,000 webhook
messages of ten owners: 10,000 are due, nearly all of them to one receiver.
"""

from typing import Final
from uuid import UUID

UPLOADS: Final = 120_000


def uid(kind: int, number: int) -> UUID:
    return UUID(f"00000000-0000-7000-800{kind}-{number:012x}")


def load(first: int = 0, end: int = UPLOADS) -> tuple[str, ...]:
    """Fill the tables with so many of the uploads, and with what belongs to them; of all else with the same share."""

    def numbers(count: int) -> str:
        return f"generate_series({first * count // UPLOADS}, {end * count // UPLOADS} - 1)"

    return (
        f"""
        CREATE TEMPORARY TABLE plan AS SELECT
            n, CASE WHEN n >= 90000 THEN 3000 ELSE n / 75 + 1 END AS batch,
            CASE WHEN n >= 108000 THEN 'pending' WHEN n BETWEEN 96000 AND 96499 THEN 'processing' ELSE 'completed'
            END AS status
        FROM {numbers(UPLOADS)} n
        """,
        """
        CREATE OR REPLACE FUNCTION uid(kind int, n bigint) RETURNS uuid IMMUTABLE LANGUAGE sql
        RETURN format('00000000-0000-7000-800%s-%s', kind, lpad(to_hex(n), 12, '0'))::uuid
        """,
        f"INSERT INTO objects (id, size_bytes) SELECT uid(1, n), 65536 FROM {numbers(UPLOADS // 10)} n",
        """
        INSERT INTO upload_batches (
            id, user_id, status, total_uploads, pending_uploads, processing_uploads, processed_uploads,
            successful_uploads, created_at, sealed_at, completed_at
        ) SELECT
            uid(0, batch), uid(3, CASE WHEN batch % 2 = 0 THEN 0 ELSE batch % 20 END),
            CASE WHEN bool_and(status = 'completed') THEN 'completed' ELSE 'processing' END, count(*),
            count(*) FILTER (WHERE status = 'pending'), count(*) FILTER (WHERE status = 'processing'),
            count(*) FILTER (WHERE status = 'completed'), count(*) FILTER (WHERE status = 'completed'),
            timestamptz '2026-01-01' + batch * interval '1 minute', now(),
            CASE WHEN bool_and(status = 'completed') THEN now() END
        FROM plan GROUP BY batch ORDER BY batch
        """,
        """
        INSERT INTO uploads (
            id, user_id, batch_id, filename, status, size_bytes, received_bytes, sha256, object_id, object_offset,
            queued_at, lease_expires_at, created_at, completed_at
        ) SELECT
            uid(2, n), b.user_id, b.id, n || '.bin', p.status, 100, 100, sha256('x'), uid(1, n / 10), n % 10 * 100,
            b.created_at, CASE WHEN p.status = 'processing' THEN now() + interval '1 hour' END, b.created_at,
            CASE WHEN p.status = 'completed' THEN now() END
        FROM plan p JOIN upload_batches b ON b.id = uid(0, batch) ORDER BY n
        """,
        f"""
        INSERT INTO webhook_endpoints (id, user_id, url, events, created_at)
        SELECT uid(4, n), uid(3, n / 10), 'https://r/', '{{batch.completed}}', now() FROM {numbers(10_000)} n
        """,
        f"INSERT INTO webhook_secrets (user_id, current) SELECT uid(3, n), 'whsec_' FROM {numbers(5_000)} n",
        f"""
        INSERT INTO webhook_deliveries (
            id, user_id, batch_id, endpoint_id, type, url, receiver, payload, status, created_at, begun_at, due_at,
            finished_at
        ) SELECT
            uid(5, n), uid(3, n % 10), uid(0, n / 20), uid(4, n % 1000), 'batch.completed', 'https://r/',
            CASE WHEN n % 200 = 0 THEN 'r' || n % 10000 ELSE 'slow' END, '{{}}',
            CASE WHEN n < 50000 THEN 'delivered' ELSE 'pending' END, timestamptz '2026-01-01' + n * interval '1 second',
            now(), now() - interval '1 second', CASE WHEN n < 50000 THEN timestamptz '2026-01-01' END
        FROM {numbers(60_000)} n
        """,
        f"""
        INSERT INTO api_keys (id, user_id, name, digest, scopes, created_at)
        SELECT uid(6, n), uid(3, n), '', sha256(n::text::bytea), '{{read}}', now() FROM {numbers(10_000)} n
        """,
        """
        INSERT INTO upload_attempts (upload_id, attempt, ended_at, code, detail)
        SELECT uid(2, n), attempt, now(), 'worker-lost', 'x' FROM plan, generate_series(1, 3) attempt WHERE n % 6 = 0
        """,
        f"""
        INSERT INTO quota_usage (user_id, bytes, files, open_batches, open_uploads)
        SELECT uid(3, n), 100, 1, 0, 0 FROM {numbers(20_000)} n
        UNION ALL SELECT '00000000-0000-0000-0000-000000000000', 0, 0, 0, 0 WHERE {first} = 0
        """,
        f"INSERT INTO quotas (user_id, bytes) SELECT uid(3, n), 1000 FROM {numbers(20_000)} n",
        f"INSERT INTO quotas (user_id, files) SELECT '00000000-0000-0000-0000-000000000000', 10 WHERE {first} = 0",
        f"""
        INSERT INTO idempotency_keys (id, user_id, key, fingerprint, batch_id, parts, expires_at)
        SELECT uid(7, n), uid(3, n % 10), 'key ' || n, sha256('x'), uid(0, n), 3,
            timestamptz '2026-01-01' + n * interval '1 minute'
        FROM {numbers(20_000)} n
        """,
        f"""
        INSERT INTO idempotency_runs (key_id, first, taken, fingerprints, results)
        SELECT uid(7, n), first, 1, sha256('x'), '{{}}' FROM {numbers(20_000)} n, generate_series(0, 2) first
        """,
        f"""
        INSERT INTO boatload_queue.pgqueuer_log (job_id, status, priority, entrypoint, created)
        SELECT n, 'queued', 0, 'process_uploads', timestamptz '2026-01-01' + n * interval '1 minute'
        FROM {numbers(60_000)} n
        """,
    )
