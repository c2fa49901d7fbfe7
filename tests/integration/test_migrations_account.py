"""The counting rules: the database refuses what breaks them; the migration makes true what an older service left."""

from typing import Final

import asyncpg
import pytest
from structlog.testing import capture_logs

from app.db import migrate
from tests.support import catalog
from tests.support.postgres import execute, fetch
from tests.support.rows import DONE, EMPTY, OPEN, OWNER, REALISTIC, upload

BATCH: Final = f"UPDATE upload_batches SET {{change}} WHERE id = '{OPEN}'"
FINISHED: Final = f"UPDATE upload_batches SET {{change}} WHERE id = '{DONE}'"
UPLOAD: Final = "UPDATE uploads SET {change} WHERE status = '{status}'"

BREACHES: Final = [
    ("upload_batches_status_known", BATCH.format(change="status = 'done'")),
    ("upload_batches_counts_not_negative", BATCH.format(change="pending_uploads = -1, receiving_uploads = 3")),
    ("upload_batches_counts_not_negative", BATCH.format(change="received_bytes = -1")),
    ("upload_batches_counts_add_up", BATCH.format(change="total_uploads = 7")),
    ("upload_batches_counts_add_up", BATCH.format(change="receiving_uploads = 2")),
    ("upload_batches_counts_add_up", BATCH.format(change="pending_uploads = 2")),
    ("upload_batches_counts_add_up", BATCH.format(change="processing_uploads = 2")),
    ("upload_batches_counts_add_up", BATCH.format(change="cancelled_uploads = 2")),
    ("upload_batches_counts_add_up", BATCH.format(change="successful_uploads = 2, processed_uploads = 3")),
    ("upload_batches_processed_adds_up", BATCH.format(change="processed_uploads = 3")),
    ("upload_batches_pending_is_empty", BATCH.format(change="status = 'pending'")),
    ("upload_batches_completed_at_when_final", BATCH.format(change="completed_at = now()")),
    ("upload_batches_completed_at_when_final", FINISHED.format(change="completed_at = NULL")),
    ("upload_batches_completed_at_when_final", BATCH.format(change="status = 'cancelled'")),
    ("upload_batches_finished_when_processed", FINISHED.format(change="sealed_at = NULL")),
    (
        "upload_batches_finished_when_processed",
        BATCH.format(change="status = 'completed', completed_at = now(), sealed_at = now()"),
    ),
    ("upload_batches_expected_positive", BATCH.format(change="expected_uploads = 0")),
    ("uploads_status_known", UPLOAD.format(change="status = 'done'", status="receiving")),
    ("uploads_received_within_size", UPLOAD.format(change="received_bytes = 11", status="receiving")),
    ("uploads_received_within_size", UPLOAD.format(change="received_bytes = -1", status="receiving")),
    ("uploads_attempts_before_within", UPLOAD.format(change="attempts_before = 1", status="processing")),
    ("uploads_attempts_before_within", UPLOAD.format(change="attempts_before = -1", status="processing")),
    ("uploads_retry_only_when_pending", UPLOAD.format(change="retry_at = now()", status="processing")),
    ("uploads_sha256_is_32_bytes", UPLOAD.format(change="sha256 = 'short'", status="pending")),
    (
        "uploads_declared_sha256_is_32_bytes",
        UPLOAD.format(change="declared_sha256 = 'short'", status="receiving"),
    ),
    ("uploads_partial_is_no_file", UPLOAD.format(change="partial = true", status="receiving")),
    ("uploads_place_is_whole", UPLOAD.format(change="object_offset = 0", status="receiving")),
    ("uploads_place_is_whole", UPLOAD.format(change="object_offset = -1", status="pending")),
    ("uploads_thumbnail_is_whole", UPLOAD.format(change="thumbnail_bytes = 1", status="completed")),
    (
        "uploads_thumbnail_is_whole",
        UPLOAD.format(
            change="thumbnail_object_id = object_id, thumbnail_offset = 0, thumbnail_bytes = 0", status="completed"
        ),
    ),
    (
        "uploads_stored_when_accepted",
        UPLOAD.format(change="object_id = NULL, object_offset = NULL", status="pending"),
    ),
    ("uploads_stored_when_accepted", UPLOAD.format(change="sha256 = NULL", status="processing")),
    ("uploads_stored_when_accepted", UPLOAD.format(change="received_bytes = 9", status="completed")),
    ("uploads_stored_when_accepted", UPLOAD.format(change="size_bytes = NULL", status="completed")),
    ("uploads_completed_at_when_final", UPLOAD.format(change="completed_at = now()", status="pending")),
    ("uploads_completed_at_when_final", UPLOAD.format(change="completed_at = NULL", status="cancelled")),
    ("uploads_error_when_failed", UPLOAD.format(change="error = NULL", status="failed")),
    ("uploads_lease_only_when_processing", UPLOAD.format(change="lease_expires_at = now()", status="pending")),
    ("objects_size_not_negative", "UPDATE objects SET size_bytes = -1"),
]


def test_the_database_refuses_what_breaks_a_rule(database_url: str) -> None:
    execute(database_url, *REALISTIC)
    for rule, statement in BREACHES:
        with pytest.raises(asyncpg.CheckViolationError) as refusal:
            execute(database_url, statement)
        assert f'"{rule}"' in str(refusal.value), statement


def test_every_rule_has_its_breach(database_url: str) -> None:
    rules = {
        name
        for table in ("objects", "uploads", "upload_batches")
        for name, definition in catalog.constraints(database_url, table).items()
        if definition.startswith("CHECK")
    }
    assert rules == {rule for rule, _ in BREACHES}


def test_a_ref_is_unique_in_its_batch(database_url: str) -> None:
    execute(database_url, *REALISTIC, upload(EMPTY, "receiving", "one"))
    with pytest.raises(asyncpg.UniqueViolationError, match="idx_uploads_batch_ref"):
        execute(database_url, upload(DONE, "receiving", "one"))


# What an older service left: status, whether it was finished, states of the uploads. Then: status, whether sealed.
LEGACY: Final = [
    ("pending", False, "", "pending", False),
    ("pending", False, "receiving pending", "processing", False),
    ("pending", True, "", "pending", False),
    ("processing", False, "completed completed", "processing", False),
    ("processing", True, "failed", "processing", False),
    ("completed", True, "completed failed", "completed", True),
    ("completed", False, "completed", "completed", True),
    ("completed", True, "completed pending", "processing", True),
    ("completed", True, "completed cancelled", "cancelled", True),
    ("failed", True, "failed failed", "failed", True),
    ("failed", True, "", "failed", True),
    ("failed", True, "receiving", "processing", True),
    ("cancelled", True, "cancelled completed", "cancelled", False),
    ("cancelled", False, "pending", "cancelled", False),
    ("done", True, "completed", "completed", True),
    ("done", True, "failed", "failed", True),
    ("done", True, "", "completed", True),
    ("done", True, "completed cancelled", "cancelled", False),
    ("uploading", False, "completed", "processing", False),
    ("uploading", False, "", "pending", False),
]
COUNTS_DIFFER: Final = """
SELECT b.id FROM upload_batches b LEFT JOIN uploads u ON u.batch_id = b.id GROUP BY b.id HAVING (
    b.total_uploads, b.receiving_uploads, b.pending_uploads, b.processing_uploads, b.successful_uploads,
    b.failed_uploads, b.cancelled_uploads, b.total_bytes, b.received_bytes
) IS DISTINCT FROM (
    count(u.id), count(*) FILTER (WHERE u.status = 'receiving'), count(*) FILTER (WHERE u.status = 'pending'),
    count(*) FILTER (WHERE u.status = 'processing'), count(*) FILTER (WHERE u.status = 'completed'),
    count(*) FILTER (WHERE u.status = 'failed'), count(*) FILTER (WHERE u.status = 'cancelled'),
    coalesce(sum(u.size_bytes), 0), coalesce(sum(u.received_bytes), 0)
)
"""


def test_what_an_older_service_left_wrong_is_put_right(empty_database_url: str) -> None:
    url = empty_database_url
    migrate.upgrade(url, "add_batch_support")
    execute(url, "INSERT INTO objects (id, size_bytes) VALUES (gen_random_uuid(), 10)")
    for number, (status, finished, states, _, _) in enumerate(LEGACY):
        batch_id = f"00000000-0000-7000-8000-{number:012}"
        execute(
            url,
            "INSERT INTO upload_batches"
            " (id, user_id, status, total_uploads, processed_uploads, created_at, completed_at)"
            f" VALUES ('{batch_id}', '{OWNER}', '{status}', 99, -1, NULL, {'now()' if finished else 'NULL'})",
            *(
                upload(batch_id, state, f"{place}").replace(", batch_version", "").replace(", 3)", ")")
                for place, state in enumerate(states.split())
            ),
        )
    with capture_logs() as logs:
        migrate.upgrade(url)
    assert f"batch_account: {len(LEGACY)} of {len(LEGACY)} batches did not match their uploads and were put right" in [
        entry["event"] for entry in logs
    ]
    found = fetch(url, "SELECT status, sealed_at IS NOT NULL AS sealed, version FROM upload_batches ORDER BY id")
    assert [tuple(row) for row in found] == [(status, sealed, 2) for *_, status, sealed in LEGACY]
    assert fetch(url, COUNTS_DIFFER) == []
    versions = fetch(url, "SELECT DISTINCT batch_version FROM uploads")
    assert [row["batch_version"] for row in versions] == [2], "a reader who starts at version 0 must see every upload"


def test_what_matches_is_not_touched(empty_database_url: str) -> None:
    url = empty_database_url
    migrate.upgrade(url, "add_batch_support")
    execute(
        url,
        f"INSERT INTO upload_batches (user_id, total_uploads, processed_uploads, failed_uploads, status) VALUES"
        f" ('{OWNER}', 0, 0, 0, 'pending'), ('{OWNER}', 1, 1, 1, 'processing')",
        "INSERT INTO uploads (user_id, filename, status, error, completed_at, batch_id)"
        " SELECT user_id, 'refused', 'failed', '{}', now(), id FROM upload_batches WHERE status = 'processing'",
    )
    migrate.upgrade(url)
    found = fetch(url, "SELECT status, version FROM upload_batches ORDER BY 1")
    assert [tuple(row) for row in found] == [("pending", 1), ("processing", 1)]
    (row,) = fetch(url, "SELECT batch_version FROM uploads")
    assert row["batch_version"] == 1, "a reader who starts at version 0 must see every upload"


def test_a_batch_that_only_lacks_its_seal_is_sealed(empty_database_url: str) -> None:
    url = empty_database_url
    migrate.upgrade(url, "add_batch_support")
    execute(url, f"INSERT INTO upload_batches (user_id, status, completed_at) VALUES ('{OWNER}', 'completed', now())")
    migrate.upgrade(url)
    (row,) = fetch(url, "SELECT status, version, sealed_at = completed_at AS sealed_then FROM upload_batches")
    assert tuple(row) == ("completed", 2, True)


def test_what_changed_while_an_older_service_ran_is_counted_again(database_url: str) -> None:
    execute(database_url, *REALISTIC)
    migrate.downgrade(database_url, "add_batch_support")
    execute(
        database_url,
        upload(OPEN, "receiving", "late"),
        f"DELETE FROM uploads WHERE batch_id = '{OPEN}' AND status = 'failed'",
        f"INSERT INTO upload_batches (user_id, created_at, updated_at) VALUES ('{OWNER}', NULL, NULL)",
    )
    with capture_logs() as logs:
        migrate.upgrade(database_url)
    assert "batch_account: 1 of 5 batches did not match their uploads and were put right" in [
        entry["event"] for entry in logs
    ]
    assert fetch(database_url, COUNTS_DIFFER) == []
    (row,) = fetch(database_url, "SELECT version FROM upload_batches WHERE id = $1", OPEN)
    assert row["version"] == 4
    versions = fetch(database_url, "SELECT DISTINCT batch_version AS v FROM uploads WHERE batch_id = $1", OPEN)
    assert [row["v"] for row in versions] == [4]
    untouched = fetch(database_url, "SELECT DISTINCT batch_version AS v FROM uploads WHERE batch_id = $1", DONE)
    assert [row["v"] for row in untouched] == [3]


def test_linked_uploads_with_a_status_of_an_older_service_are_failed_and_say_so(empty_database_url: str) -> None:
    url = empty_database_url
    execute(
        url,
        "CREATE TABLE uploads (id uuid PRIMARY KEY, status text)",
        "INSERT INTO uploads SELECT gen_random_uuid(), CASE WHEN i > 1 THEN 'done' END FROM generate_series(1, 3) i",
    )
    migrate.upgrade(url, "add_batch_support")
    execute(
        url,
        f"INSERT INTO upload_batches (user_id) VALUES ('{OWNER}')",
        "UPDATE uploads SET batch_id = (SELECT id FROM upload_batches)",
    )
    migrate.upgrade(url)
    (row,) = fetch(url, "SELECT status, total_uploads, failed_uploads FROM upload_batches")
    assert tuple(row) == ("processing", 3, 3)
    errors = fetch(url, "SELECT error ->> 'code' AS code, error ->> 'detail' AS detail FROM uploads ORDER BY 2")
    assert [tuple(row) for row in errors] == [
        ("unknown-status", "An older service called it 'done'."),
        ("unknown-status", "An older service called it 'done'."),
        ("unknown-status", "An older service called it NULL."),
    ]
