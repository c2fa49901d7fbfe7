"""The schema, against what the catalog says: the contract of `add_batch_support`, and what later revisions add."""

from typing import Final
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from app.db import migrate
from tests.support import catalog
from tests.support.catalog import Column
from tests.support.postgres import execute, fetch

ZERO: Final = Column("integer", not_null=True, default="0")
MOMENT: Final = Column("timestamp with time zone", not_null=False)
NOW: Final = Column("timestamp with time zone", not_null=True, default="now()")
TEXT: Final = Column("text", not_null=False)
BIGINT: Final = Column("bigint", not_null=False)
BIG_ZERO: Final = Column("bigint", not_null=True, default="0")
JSON: Final = Column("jsonb", not_null=True, default="'{}'::jsonb")
NEW_ID: Final = Column("uuid", not_null=True, default="gen_random_uuid()")
STATUS: Final = Column("character varying(50)", not_null=True, default="'pending'::character varying")

BATCHES: Final = {
    "id": NEW_ID,
    "user_id": Column("uuid", not_null=True),
    "status": STATUS,
    "total_uploads": ZERO,
    "processed_uploads": ZERO,
    "successful_uploads": ZERO,
    "failed_uploads": ZERO,
    "error_message": TEXT,
    "created_at": Column("timestamp with time zone", not_null=False, default="now()"),
    "started_at": MOMENT,
    "completed_at": MOMENT,
    "updated_at": MOMENT,
}
ACCOUNT: Final = {
    "created_at": NOW,
    "updated_at": NOW,
    "label": TEXT,
    "expected_uploads": Column("integer", not_null=False),
    "metadata": JSON,
    "receiving_uploads": ZERO,
    "pending_uploads": ZERO,
    "processing_uploads": ZERO,
    "cancelled_uploads": ZERO,
    "total_bytes": BIG_ZERO,
    "received_bytes": BIG_ZERO,
    "version": Column("bigint", not_null=True, default="1"),
    "sealed_at": MOMENT,
    "expires_at": MOMENT,
    "webhook_url": TEXT,
}
UPLOADS: Final = {
    "id": NEW_ID,
    "user_id": Column("uuid", not_null=True),
    "ref": TEXT,
    "filename": Column("text", not_null=True),
    "status": STATUS,
    "size_bytes": BIGINT,
    "received_bytes": BIG_ZERO,
    "content_type": TEXT,
    "detected_type": TEXT,
    "sha256": Column("bytea", not_null=False),
    "width": Column("integer", not_null=False),
    "height": Column("integer", not_null=False),
    "attempts": ZERO,
    "error": Column("jsonb", not_null=False),
    "metadata": JSON,
    "object_id": Column("uuid", not_null=False),
    "object_offset": BIGINT,
    "queued_at": MOMENT,
    "lease_expires_at": MOMENT,
    "created_at": NOW,
    "updated_at": NOW,
    "completed_at": MOMENT,
}
LATER: Final = {
    "batch_version": BIG_ZERO,
    "attempts_before": ZERO,
    "retry_at": MOMENT,
    "last_error": Column("jsonb", not_null=False),
    "thumbnail_object_id": Column("uuid", not_null=False),
    "thumbnail_offset": BIGINT,
    "thumbnail_bytes": Column("integer", not_null=False),
    "declared_sha256": Column("bytea", not_null=False),
    "partial": Column("boolean", not_null=True, default="false"),
    "expires_at": MOMENT,
    "takeover": Column("uuid", not_null=False),
}
UPLOAD_INDEXES: Final = {
    "uploads_pkey": "UNIQUE (id)",
    "idx_uploads_object_id": "(object_id)",
    "idx_uploads_queued": (
        "(queued_at) WHERE ((status)::text = ANY"
        " ((ARRAY['pending'::character varying, 'processing'::character varying])::text[]))"
    ),
}
BATCH_LINK: Final = "FOREIGN KEY (batch_id) REFERENCES upload_batches(id) ON DELETE SET NULL"
NOBODY: Final = UUID(int=0)
FOREIGN: Final = "CREATE TABLE uploads (id uuid PRIMARY KEY, path varchar(1000) NOT NULL)"
FOREIGN_ROWS: Final = "INSERT INTO uploads SELECT gen_random_uuid(), 'file ' || i FROM generate_series(1, 1000) i"


def assert_linked(url: str) -> None:
    """Every statement of the contract on the link and the indexes."""
    assert catalog.columns(url, "uploads")["batch_id"] == Column("uuid", not_null=False)
    assert [text for text in catalog.constraints(url, "uploads").values() if "upload_batches" in text] == [BATCH_LINK]
    assert catalog.indexes(url, "uploads")["idx_uploads_batch_id"] == "(batch_id)"
    assert catalog.constraints(url, "upload_batches")["upload_batches_pkey"] == "PRIMARY KEY (id)"
    batch_indexes = catalog.indexes(url, "upload_batches")
    assert batch_indexes["idx_upload_batches_user_id"] == "(user_id)"
    assert batch_indexes["idx_upload_batches_status"] == "(status)"


def test_the_base_is_a_service_without_batches(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url, "create_uploads")
    assert catalog.columns(empty_database_url, "uploads") == UPLOADS
    assert catalog.columns(empty_database_url, "objects") == {
        "id": Column("uuid", not_null=True),
        "size_bytes": Column("bigint", not_null=True),
        "created_at": NOW,
    }
    assert catalog.columns(empty_database_url, "upload_batches") == {}
    assert catalog.indexes(empty_database_url, "uploads") == UPLOAD_INDEXES
    assert (
        "FOREIGN KEY (object_id) REFERENCES objects(id)" in catalog.constraints(empty_database_url, "uploads").values()
    )


def test_batch_support_is_exactly_the_contract(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url, "add_batch_support")
    assert catalog.columns(empty_database_url, "upload_batches") == BATCHES
    assert catalog.constraints(empty_database_url, "upload_batches") == {"upload_batches_pkey": "PRIMARY KEY (id)"}
    assert_linked(empty_database_url)
    assert catalog.columns(empty_database_url, "uploads").keys() - UPLOADS.keys() == {"batch_id"}


def test_later_revisions_only_add_to_the_contract(database_url: str) -> None:
    assert catalog.columns(database_url, "upload_batches") == {
        **BATCHES,
        **ACCOUNT,
        "processors": Column("text[]", not_null=False),
    }
    assert_linked(database_url)
    assert catalog.columns(database_url, "uploads") == {
        **UPLOADS,
        "batch_id": Column("uuid", not_null=False),
        **LATER,
    }
    assert catalog.indexes(database_url, "uploads") == {
        **UPLOAD_INDEXES,
        "idx_uploads_batch_id": "(batch_id)",
        "idx_uploads_batch_version": "(batch_id, batch_version, id)",
        "idx_uploads_batch_order": "(batch_id, id)",
        "idx_uploads_batch_status": "(batch_id, status, id)",
        "idx_uploads_retry": "(retry_at) WHERE (retry_at IS NOT NULL)",
        "idx_uploads_lease": "(lease_expires_at) WHERE ((status)::text = 'processing'::text)",
        "idx_uploads_stored_bytes": (
            "(user_id, sha256, size_bytes) WHERE ((sha256 IS NOT NULL) AND (object_id IS NOT NULL))"
        ),
        "idx_uploads_expiring": "(expires_at) WHERE ((status)::text = 'receiving'::text)",
        "idx_uploads_batch_ref": "UNIQUE (batch_id, ref) WHERE (ref IS NOT NULL)",
        "idx_uploads_thumbnail_object_id": "(thumbnail_object_id) WHERE (thumbnail_object_id IS NOT NULL)",
    }
    newest = catalog.indexes(database_url, "upload_batches")["idx_upload_batches_owner_newest"]
    assert newest == "(user_id, created_at DESC, id DESC)"


def test_the_cursor_key_is_32_random_bytes_and_stays(database_url: str) -> None:
    (before,) = fetch(database_url, "SELECT key FROM service_keys WHERE name = 'cursor'")
    assert len(before["key"]) == 32
    assert len(set(before["key"])) > 16
    migrate.downgrade(database_url, "base")
    migrate.upgrade(database_url)
    (after,) = fetch(database_url, "SELECT key FROM service_keys WHERE name = 'cursor'")
    assert after["key"] == before["key"]


def test_deleting_a_batch_leaves_its_uploads_without_one(database_url: str) -> None:
    execute(
        database_url,
        "INSERT INTO upload_batches (id, user_id) VALUES (gen_random_uuid(), gen_random_uuid())",
        "INSERT INTO uploads (user_id, filename, status, batch_id)"
        " SELECT user_id, 'a', 'receiving', id FROM upload_batches",
        "DELETE FROM upload_batches",
    )
    assert [row["batch_id"] for row in fetch(database_url, "SELECT batch_id FROM uploads")] == [None]


@pytest.mark.parametrize("revision", catalog.REVISIONS)
def test_every_revision_may_run_twice(empty_database_url: str, revision: str) -> None:
    migrate.upgrade(empty_database_url, revision)
    once = catalog.everything(empty_database_url)
    execute(empty_database_url, "DELETE FROM boatload_schema_version")
    migrate.upgrade(empty_database_url, revision)
    assert catalog.everything(empty_database_url) == once


def test_batch_support_runs_on_its_own_over_a_populated_table(empty_database_url: str) -> None:
    execute(empty_database_url, FOREIGN, FOREIGN_ROWS)
    for _ in range(2):
        execute(empty_database_url, migrate.sql("up", "add_batch_support"))
        assert catalog.columns(empty_database_url, "upload_batches") == BATCHES
        assert_linked(empty_database_url)
    (row,) = fetch(empty_database_url, "SELECT count(*), count(path) AS paths, count(batch_id) AS links FROM uploads")
    assert tuple(row) == (1000, 1000, 0)


def test_batch_support_gives_a_link_that_stood_there_its_foreign_key(empty_database_url: str) -> None:
    execute(empty_database_url, FOREIGN, FOREIGN_ROWS, "ALTER TABLE uploads ADD COLUMN batch_id uuid")
    execute(empty_database_url, migrate.sql("up", "add_batch_support"))
    assert_linked(empty_database_url)


def test_a_populated_table_of_an_older_service_comes_up_to_head(empty_database_url: str) -> None:
    execute(empty_database_url, FOREIGN, FOREIGN_ROWS)
    with capture_logs() as logs:
        migrate.upgrade(empty_database_url)
    found = catalog.columns(empty_database_url, "uploads")
    assert found.pop("path") == Column("character varying(1000)", not_null=True)
    wanted = {**UPLOADS, "batch_id": Column("uuid", not_null=False), **LATER}
    assert found == {**wanted, "id": Column("uuid", not_null=True)}
    (row,) = fetch(
        empty_database_url, "SELECT count(*) FROM uploads WHERE user_id = $1 AND status = $2", NOBODY, "completed"
    )
    assert row["count"] == 1000
    warnings = [entry["event"] for entry in logs if entry["log_level"] == "warning"]
    assert len(warnings) == 1
    assert "uploads_stored_when_accepted" in warnings[0]
    missing = catalog.constraints(empty_database_url, "uploads")
    assert "uploads_stored_when_accepted" not in missing
    assert "uploads_completed_at_when_final" in missing


def test_a_table_of_an_older_service_keeps_its_values(empty_database_url: str) -> None:
    execute(
        empty_database_url,
        "CREATE TABLE uploads (id uuid PRIMARY KEY, user_id uuid, filename text, status text, created_at timestamptz)",
        "INSERT INTO uploads SELECT gen_random_uuid(), gen_random_uuid(), 'a', 'ok', now() FROM generate_series(1, 3)",
    )
    before = fetch(empty_database_url, "SELECT id, user_id, filename, status, created_at FROM uploads ORDER BY id")
    migrate.upgrade(empty_database_url)
    after = fetch(empty_database_url, "SELECT id, user_id, filename, status, created_at FROM uploads ORDER BY id")
    assert after == before
