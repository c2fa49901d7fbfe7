"""What the hot statements read on large tables, at first and once PostgreSQL has settled on a plan for them.

120,000 uploads: a thousand ordinary batches, and last one of 30,000, whose first ids are behind all the others. One
owner has half the batches. 12,000 uploads are pending and have their jobs, 500 are being processed. 60,000 webhook
messages of ten owners: 10,000 are due, nearly all of them to one receiver.
"""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest

from app.jobs import queue
from app.repositories import (
    api_keys,
    batches,
    objects,
    quota_usage,
    receiving,
    upload_attempts,
    uploads,
    webhook_deliveries,
    webhook_endpoints,
    webhook_outbox,
    webhook_secrets,
    work,
)
from tests.support.postgres import VERSIONS, Servers, execute

LOAD: Final = (
    """
    CREATE UNLOGGED TABLE plan AS SELECT
        n, CASE WHEN n >= 90000 THEN 3000 ELSE n / 75 + 1 END AS batch,
        CASE WHEN n >= 108000 THEN 'pending' WHEN n BETWEEN 96000 AND 96499 THEN 'processing' ELSE 'completed'
        END AS status
    FROM generate_series(0, 119999) n
    """,
    """
    CREATE FUNCTION uid(kind int, n bigint) RETURNS uuid IMMUTABLE LANGUAGE sql
    RETURN format('00000000-0000-7000-800%s-%s', kind, lpad(to_hex(n), 12, '0'))::uuid
    """,
    "INSERT INTO objects (id, size_bytes) SELECT uid(1, n), 65536 FROM generate_series(0, 12100) n",
    """
    INSERT INTO upload_batches (
        id, user_id, status, total_uploads, pending_uploads, processing_uploads, processed_uploads, successful_uploads,
        created_at, sealed_at, completed_at
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
    """
    INSERT INTO webhook_endpoints (id, user_id, url, events, created_at)
    SELECT uid(4, n), uid(3, n / 10), 'https://r/', '{batch.completed}', now() FROM generate_series(0, 9999) n
    """,
    "INSERT INTO webhook_secrets (user_id, current) SELECT uid(3, n), 'whsec_' FROM generate_series(0, 4999) n",
    """
    INSERT INTO webhook_deliveries (
        id, user_id, batch_id, endpoint_id, type, url, receiver, payload, status, created_at, begun_at, due_at,
        finished_at
    ) SELECT
        uid(5, n), uid(3, n % 10), uid(0, n / 20), uid(4, n % 1000), 'batch.completed', 'https://r/',
        CASE WHEN n % 200 = 0 THEN 'r' || n % 10000 ELSE 'slow' END, '{}',
        CASE WHEN n < 50000 THEN 'delivered' ELSE 'pending' END, timestamptz '2026-01-01' + n * interval '1 second',
        now(), now() - interval '1 second', CASE WHEN n < 50000 THEN timestamptz '2026-01-01' END
    FROM generate_series(0, 59999) n
    """,
    """
    INSERT INTO api_keys (id, user_id, name, digest, scopes, created_at)
    SELECT uid(6, n), uid(3, n), '', sha256(n::text::bytea), '{read}', now() FROM generate_series(0, 9999) n
    """,
    """
    INSERT INTO upload_attempts (upload_id, attempt, ended_at, code, detail)
    SELECT uid(2, n), attempt, now(), 'worker-lost', 'x'
    FROM generate_series(20000, 40000) n, generate_series(1, 3) attempt
    """,
    """
    INSERT INTO quota_usage (user_id, bytes, files, open_batches, open_uploads)
    SELECT uid(3, n), 100, 1, 0, 0 FROM generate_series(0, 19999) n
    UNION ALL SELECT '00000000-0000-0000-0000-000000000000', 0, 0, 0, 0
    """,
    "INSERT INTO quotas (user_id, bytes) SELECT uid(3, n), 1000 FROM generate_series(0, 19999) n",
    "INSERT INTO quotas (user_id, files) VALUES ('00000000-0000-0000-0000-000000000000', 10)",
    "VACUUM ANALYZE",
)


def uid(kind: int, number: int) -> UUID:
    return UUID(f"00000000-0000-7000-800{kind}-{number:012x}")


NIL: Final = UUID(int=0)
NOW: Final = datetime(2026, 6, 1, tzinfo=UTC)
BEFORE_ALL: Final = datetime(2025, 1, 1, tzinfo=UTC)
SMALL, BIG = uid(0, 7), uid(0, 3000)
OWNER_OF_SMALL, OWNER_OF_BIG = uid(3, 7), uid(3, 0)
PENDING: Final = [uid(2, 110_000 + number) for number in range(queue.JOB_UPLOADS)]
PROCESSING: Final = [uid(2, 96_400 + number) for number in range(queue.JOB_UPLOADS)]
LEASE: Final = timedelta(seconds=15)
LARGE: Final = {"uploads", "upload_batches", "objects"}
OF_A_BATCH: Final = {"idx_uploads_batch_order", "idx_uploads_batch_id"}
OF_RECEIVING: Final = {"idx_uploads_batch_status", "idx_uploads_expiring", "uploads_pkey"}
OF_OBJECTS: Final = {"objects_pkey", "idx_uploads_object_id", "idx_uploads_thumbnail_object_id"}
NOTHING: Final = [None] * 100
ZEROS: Final = [0] * 100
NAMES: Final = [str(number) for number in range(100)]
ENDS: Final = (ZEROS, ["completed"] * 100, *[NOTHING] * 5, [8] * 100, *[NOTHING] * 3)
CLAIM: Final = (LEASE, NOW, 5, "worker-lost", "It went silent.", '{"code": "a", "detail": "b"}', [BIG], [9])

# Statement, arguments, the indexes that may serve it, and how many entries of tables and indexes it may read at most.
HOT: Final[dict[str, tuple[str, tuple[object, ...], set[str], int]]] = {
    "find a batch": (batches.FIND, (SMALL, OWNER_OF_SMALL), {"upload_batches_pkey"}, 4),
    "find batches": (batches.BY_IDS, ([SMALL, BIG],), {"upload_batches_pkey"}, 8),
    "list batches": (batches.LIST, (OWNER_OF_BIG, NOW, uid(9, 0), 100), {"idx_upload_batches_owner_newest"}, 250),
    "list batches of a common status": (
        batches.LIST_BY_STATUS,
        (OWNER_OF_BIG, NOW, uid(9, 0), 100, "completed"),
        {"idx_upload_batches_owner_newest", "idx_upload_batches_owner_status"},
        250,
    ),
    "list batches of a rare status": (
        batches.LIST_BY_STATUS,
        (OWNER_OF_BIG, NOW, uid(9, 0), 100, "processing"),
        {"idx_upload_batches_owner_status", "idx_upload_batches_status"},
        250,
    ),
    "lock batches": (batches.LOCK, ([SMALL, BIG],), {"upload_batches_pkey"}, 8),
    "lock an owned batch": (batches.LOCK_OWNED, (SMALL, OWNER_OF_SMALL), {"upload_batches_pkey"}, 4),
    "delete a batch": (batches.DELETE, (SMALL,), {"upload_batches_pkey", "quota_usage_pkey"}, 300),
    "find an upload": (uploads.FIND, (uid(2, 7 * 75), OWNER_OF_SMALL), {"uploads_pkey"}, 4),
    "list a small batch": (uploads.LIST, (SMALL, OWNER_OF_SMALL, NIL, 100), OF_A_BATCH, 250),
    "list a large batch": (uploads.LIST, (BIG, OWNER_OF_BIG, NIL, 100), OF_A_BATCH, 250),
    "list the last of a large batch": (uploads.LIST, (BIG, OWNER_OF_BIG, uid(2, 119_990), 100), OF_A_BATCH, 250),
    "list what is completed of a large batch": (
        uploads.LIST_BY_STATUS,
        (BIG, OWNER_OF_BIG, NIL, 100, "completed"),
        {"idx_uploads_batch_status"},
        250,
    ),
    "list what is being processed of a large batch": (
        uploads.LIST_BY_STATUS,
        (BIG, OWNER_OF_BIG, NIL, 100, "processing"),
        {"idx_uploads_batch_status"},
        250,
    ),
    "list what failed of a large batch, which is nothing": (
        uploads.LIST_BY_STATUS,
        (BIG, OWNER_OF_BIG, NIL, 100, "failed"),
        {"idx_uploads_batch_status"},
        250,
    ),
    "list what changed of a large batch": (
        uploads.LIST_CHANGED,
        (BIG, OWNER_OF_BIG, 0, NIL, 99, 101),
        {"idx_uploads_batch_version"},
        250,
    ),
    "go on in the middle of a version with many changes": (
        uploads.LIST_CHANGED,
        (BIG, OWNER_OF_BIG, 0, uid(2, 110_000), 99, 101),
        {"idx_uploads_batch_version"},
        250,
    ),
    "nothing has changed": (
        uploads.LIST_CHANGED,
        (BIG, OWNER_OF_BIG, 99, NIL, 99, 101),
        {"idx_uploads_batch_version"},
        250,
    ),
    "what batches chose": (batches.PROCESSORS_OF, ([SMALL, BIG],), {"upload_batches_pkey"}, 8),
    "batches of a job": (work.BATCHES_OF, (PENDING,), {"uploads_pkey"}, 250),
    "claim a job": (work.CLAIM, (PENDING, *CLAIM), {"uploads_pkey"}, 500),
    "renew leases": (work.RENEW, (PROCESSING, ZEROS, LEASE), {"uploads_pkey"}, 500),
    "finish a job": (work.FINISH, (NOW, "a", PROCESSING, *ENDS), {"uploads_pkey"}, 250),
    "release a job": (
        work.RELEASE,
        (NOW, "a", PROCESSING, ZEROS, [LEASE] * 100, ZEROS, NOTHING, [8] * 100),
        {"uploads_pkey"},
        250,
    ),
    "what of a retry is of the batch": (work.IN_BATCH, (PENDING, BIG), {"uploads_pkey"}, 250),
    "retry what failed of a large batch": (
        work.RETRY_ALL,
        (BIG, NOW, 9),
        {"idx_uploads_batch_status"},
        250,
    ),
    "retry some of a large batch": (
        work.RETRY_CHOSEN,
        (PENDING, NOW, 9),
        {"uploads_pkey"},
        250,
    ),
    "history of an upload": (upload_attempts.LIST, (uid(2, 20_007), 0, 100), {"upload_attempts_pkey"}, 120),
    "find bytes that are not there": (
        receiving.HELD,
        (OWNER_OF_BIG, [number.to_bytes(32) for number in range(100)], [100] * 100),
        {"idx_uploads_stored_bytes"},
        250,
    ),
    "find bytes that are there thousands of times": (
        receiving.HELD,
        (OWNER_OF_BIG, [sha256(b"x").digest()] * 100, [100] * 100),
        {"idx_uploads_stored_bytes"},
        250,
    ),
    "find an upload to be filled": (
        receiving.FIND,
        (uid(2, 601), uid(3, 9)),
        {"uploads_pkey", "upload_batches_pkey"},
        250,  # two rows; the planner looks at the ends of both indexes for its join, past what others left dead there
    ),
    "find a ref": (
        receiving.FIND_REF,
        (BIG, "none", OWNER_OF_BIG),
        {"idx_uploads_batch_ref", "upload_batches_pkey"},
        8,
    ),
    "look at uploads": (receiving.BY_IDS, (PENDING,), {"uploads_pkey"}, 250),
    "look at refs": (
        receiving.BY_REFS,
        ([BIG] * 100, [str(number) for number in range(100)]),
        {"idx_uploads_batch_ref"},
        10,
    ),
    "lock uploads to be filled": (receiving.LOCK, (PENDING,), {"uploads_pkey"}, 250),
    "lock refs": (receiving.LOCK_REFS, ([BIG] * 100, NAMES), {"idx_uploads_batch_ref"}, 10),
    "move an upload on": (
        receiving.MOVE,
        (BIG, 200, uid(1, 3), NOW, uid(2, 89_999), 100, uid(1, 3), None),
        {"uploads_pkey", "upload_batches_pkey"},
        20,
    ),
    "watch writers": (receiving.WATCH, (PENDING,), {"uploads_pkey"}, 250),
    "nothing has expired": (receiving.EXPIRED, (NOW, 1000), {"idx_uploads_expiring"}, 10),
    "hold objects": (objects.HOLD, ([uid(1, number) for number in range(100)],), {"objects_pkey"}, 250),
    "count what two owners hold": (
        quota_usage.MOVE,
        ([OWNER_OF_SMALL, OWNER_OF_BIG], [1, 1], [1, 1], [0, 0], [0, 0]),
        {"quota_usage_pkey", "quotas_pkey"},
        20,
    ),
    "what an owner holds": (quota_usage.FIND, (OWNER_OF_BIG,), {"quota_usage_pkey", "quotas_pkey"}, 10),
    "let go of what has come of a batch": (receiving.DROP_PARTIAL_BYTES, (BIG,), OF_RECEIVING, 10),
    "cancel what was to come of a deleted batch": (receiving.CANCEL, (BIG, NOW), OF_RECEIVING, 10),
    "cancel a batch": (uploads.CANCEL, (SMALL, NOW, 9), {*OF_A_BATCH, "idx_uploads_batch_status"}, 200),
    "let the uploads of a batch go on alone": (uploads.LEAVE, (SMALL, NOW), OF_A_BATCH, 200),
    "delete an upload": (uploads.DELETE, (uid(2, 7 * 75), OWNER_OF_SMALL), {"uploads_pkey"}, 4),
    "delete uploads": (uploads.DELETE_ALL, (SMALL,), OF_A_BATCH, 200),
    "what is due": (work.DUE, (1000,), {"idx_uploads_retry", "uploads_pkey"}, 10),
    "whose worker is silent": (work.EXPIRED, (1000,), {"idx_uploads_lease", "uploads_pkey"}, 10),
    "nothing is forgotten": (
        work.FORGOTTEN,
        (BEFORE_ALL, 1000),
        {"idx_uploads_queued", "uploads_pkey", "pgqueuer"},
        10,
    ),
    "much is forgotten": (work.FORGOTTEN, (NOW, 1000), {"idx_uploads_queued", "uploads_pkey"}, 5000),
    "objects that exist": (objects.EXISTING, ([uid(1, number) for number in range(100)],), {"objects_pkey"}, 250),
    "receivers of a batch": (
        webhook_outbox.TARGETS,
        ([SMALL],),
        {"upload_batches_pkey", "idx_webhook_endpoints_owner"},
        40,
    ),
    "webhooks of an owner": (webhook_endpoints.LIST, (uid(3, 5),), {"idx_webhook_endpoints_owner"}, 30),
    "secrets of an owner": (webhook_secrets.GET, (uid(3, 5),), {"webhook_secrets_pkey"}, 4),
    "find a message": (webhook_deliveries.FIND, (uid(5, 7), uid(3, 7)), {"webhook_deliveries_pkey"}, 4),
    "list messages": (
        webhook_deliveries.LIST,
        (uid(3, 7), NOW, uid(9, 0), 100),
        {"idx_webhook_deliveries_owner_newest"},
        250,
    ),
    "list messages of a rare status": (
        webhook_deliveries.LIST_BY_STATUS,
        (uid(3, 7), NOW, uid(9, 0), 100, "given_up"),
        {"idx_webhook_deliveries_owner_status"},
        250,
    ),
    "list messages of a batch": (
        webhook_deliveries.LIST_OF_BATCH,
        (uid(3, 7), NOW, uid(9, 0), 100, SMALL, None),
        {"idx_webhook_deliveries_batch"},
        60,
    ),
    "claim messages, though thousands wait for one receiver": (
        webhook_deliveries.CLAIM,
        (LEASE, 64, 4, ["slow"], [3]),
        {"idx_webhook_deliveries_due", "webhook_deliveries_pkey"},
        900,
    ),
    "record an attempt": (
        webhook_deliveries.RECORD,
        (uid(5, 50_001), 0, "pending", LEASE, "{}", None),
        {"webhook_deliveries_pkey"},
        8,
    ),
    "give up what waits for an endpoint": (
        webhook_deliveries.GIVE_UP,
        (uid(4, 1), "No."),
        {"idx_webhook_deliveries_endpoint"},
        40,
    ),
    "send a message again": (webhook_deliveries.REDELIVER, (uid(5, 7), uid(3, 7)), {"webhook_deliveries_pkey"}, 4),
    "delete old messages": (
        webhook_deliveries.DELETE_OLD,
        (timedelta(days=1), 100),
        {"idx_webhook_deliveries_finished", "webhook_deliveries_pkey"},
        500,
    ),
    "find a key": (api_keys.FIND, (sha256(b"7").digest(),), {"idx_api_keys_digest"}, 4),
    "a page of objects": (objects.PAGE, (uid(1, 6_000), 1000), OF_OBJECTS, 3000),
    "delete an unused object": (objects.DELETE_UNUSED, (uid(1, 5),), OF_OBJECTS, 20),
}

# `pg_stat_xact_*` counts what this transaction has read so far, in the tables and through the indexes.
READ: Final = """
    SELECT (SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_xact_user_tables)
        + (SELECT coalesce(sum(pg_stat_get_xact_tuples_returned(i.indexrelid)), 0)
           FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = 'public'::regnamespace)
"""


@pytest.fixture(scope="module", params=VERSIONS)
def large_url(request: pytest.FixtureRequest, postgres_servers: Servers) -> Iterator[str]:
    server = postgres_servers.get(request.param)
    url = server.create_migrated()
    execute(url, *LOAD)
    yield url
    server.drop(url)


@pytest.fixture
async def large(large_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection in a transaction that is rolled back. Parallel workers would not count what they read."""
    connection = await asyncpg.connect(large_url, server_settings={"max_parallel_workers_per_gather": "0"})
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


async def entries_read(connection: "asyncpg.Connection[asyncpg.Record]", sql: str, *arguments: object) -> int:
    """How much a statement reads at the most in nine goes: from the sixth on its plan may be one for any arguments."""
    statement = await connection.prepare(sql)
    read = []
    for _ in range(9):
        before = await connection.fetchval(READ)
        undo = connection.transaction()
        await undo.start()
        await statement.fetch(*arguments)
        read.append(int(await connection.fetchval(READ) - before))
        await undo.rollback()
    return max(read)


@pytest.mark.parametrize("name", HOT)
async def test_a_hot_statement_goes_by_its_index(large: "asyncpg.Connection[asyncpg.Record]", name: str) -> None:
    sql, arguments, indexes, _ = HOT[name]
    plan = json.loads(await large.fetchval("EXPLAIN (FORMAT JSON) " + sql, *arguments))[0]["Plan"]
    read_whole = {node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"}
    assert read_whole <= {"pgqueuer"}  # a row for a hundred uploads, and only while they wait
    used = {node["Index Name"] for node in nodes(plan) if "Index Name" in node}
    assert used
    assert used <= indexes


@pytest.mark.parametrize("name", HOT)
async def test_a_hot_statement_reads_little(large: "asyncpg.Connection[asyncpg.Record]", name: str) -> None:
    sql, arguments, _, most = HOT[name]
    assert await entries_read(large, sql, *arguments) <= most
