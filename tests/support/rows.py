"""Rows that the newest schema accepts: four batches, with uploads in every state. And whether rows add up."""

from typing import Final

OWNER: Final = "11111111-1111-4111-8111-111111111111"
OPEN, DONE, EMPTY, CANCELLED = (f"00000000-0000-7000-8000-00000000000{number}" for number in range(1, 5))

STATES: Final = ("receiving", "pending", "processing", "completed", "failed", "cancelled")

WRONG_COUNTS: Final = """
    SELECT b.id FROM upload_batches b
    LEFT JOIN (
        SELECT
            batch_id, count(*) AS total,
            count(*) FILTER (WHERE status = 'receiving') AS receiving,
            count(*) FILTER (WHERE status = 'pending') AS pending,
            count(*) FILTER (WHERE status = 'processing') AS processing,
            count(*) FILTER (WHERE status = 'completed') AS successful,
            count(*) FILTER (WHERE status = 'failed') AS failed,
            count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
            count(*) FILTER (WHERE status IN ('completed', 'failed')) AS processed,
            sum(size_bytes) AS total_bytes, sum(received_bytes) AS received_bytes, max(batch_version) AS version
        FROM uploads WHERE batch_id IS NOT NULL GROUP BY batch_id
    ) c ON c.batch_id = b.id
    WHERE (
        b.total_uploads, b.receiving_uploads, b.pending_uploads, b.processing_uploads, b.successful_uploads,
        b.failed_uploads, b.cancelled_uploads, b.processed_uploads, b.total_bytes, b.received_bytes
    ) IS DISTINCT FROM (
        coalesce(c.total, 0), coalesce(c.receiving, 0), coalesce(c.pending, 0), coalesce(c.processing, 0),
        coalesce(c.successful, 0), coalesce(c.failed, 0), coalesce(c.cancelled, 0), coalesce(c.processed, 0),
        coalesce(c.total_bytes, 0), coalesce(c.received_bytes, 0)
    ) OR c.version > b.version
"""
"""The batches whose account differs from their rows, in one snapshot: bytes, counts, and versions from the future."""


def upload(batch_id: str, status: str, ref: str) -> str:
    """An INSERT of one upload of 10 bytes; those with bytes lie in one object."""
    assert status in STATES
    stored = status in {"pending", "processing", "completed"}
    values = {
        "user_id": f"'{OWNER}'",
        "batch_id": f"'{batch_id}'",
        "ref": f"'{ref}'",
        "filename": f"'{ref}.txt'",
        "status": f"'{status}'",
        "size_bytes": "10",
        "received_bytes": "10" if stored else "4",
        "content_type": "'text/plain'",
        "sha256": "sha256('0123456789')" if stored else "NULL",
        "object_id": "(SELECT id FROM objects)" if stored else "NULL",
        "object_offset": "0" if stored else "NULL",
        "error": """'{"code": "file-too-large", "detail": "No."}'""" if status == "failed" else "NULL",
        "lease_expires_at": "now()" if status == "processing" else "NULL",
        "completed_at": "now()" if status in {"completed", "failed", "cancelled"} else "NULL",
        "batch_version": "3",
    }
    return f"INSERT INTO uploads ({', '.join(values)}) VALUES ({', '.join(values.values())})"


REALISTIC: Final = (
    "INSERT INTO objects (id, size_bytes) VALUES (gen_random_uuid(), 10)",
    f"""INSERT INTO upload_batches (
        id, user_id, label, status, total_uploads, receiving_uploads, pending_uploads, processing_uploads,
        processed_uploads, successful_uploads, failed_uploads, cancelled_uploads, total_bytes, received_bytes, version,
        started_at, sealed_at, completed_at, metadata
    ) VALUES
        ('{OPEN}', '{OWNER}', 'open', 'processing', 6, 1, 1, 1, 2, 1, 1, 1, 60, 42, 3, now(), NULL, NULL, '{{"a": 1}}'),
        ('{DONE}', '{OWNER}', 'done', 'completed', 2, 0, 0, 0, 2, 2, 0, 0, 20, 20, 3, now(), now(), now(), '{{}}'),
        ('{EMPTY}', '{OWNER}', NULL, 'failed', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, now(), now(), now(), '{{}}'),
        ('{CANCELLED}', '{OWNER}', NULL, 'cancelled', 1, 0, 0, 0, 0, 0, 0, 1, 10, 4, 3, now(), NULL, now(), '{{}}')
    """,
    *(upload(OPEN, status, f"file {number}") for number, status in enumerate(STATES)),
    upload(DONE, "completed", "one"),
    upload(DONE, "completed", "two"),
    upload(CANCELLED, "cancelled", "one"),
)
