"""The statements that the service runs again and again, with arguments about large tables, and what they may read."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final, TypeAlias
from uuid import UUID

from app.jobs import queue
from app.repositories import (
    api_keys,
    arrivals,
    batches,
    idempotency_keys,
    idempotency_runs,
    objects,
    quota_usage,
    quotas,
    receiving,
    service_keys,
    upload_attempts,
    uploads,
    webhook_deliveries,
    webhook_endpoints,
    webhook_outbox,
    webhook_secrets,
    work,
)
from tests.support.large_tables import uid

NIL: Final = UUID(int=0)
NOW: Final = datetime(2026, 6, 1, tzinfo=UTC)
BEFORE_ALL: Final = datetime(2025, 1, 1, tzinfo=UTC)
SMALL, BIG = uid(0, 7), uid(0, 3000)
OWNER_OF_SMALL, OWNER_OF_BIG = uid(3, 7), uid(3, 0)
GROWING, OWNER_OF_GROWING = uid(0, 9), uid(3, 9)
PENDING: Final = [uid(2, 110_000 + number) for number in range(queue.JOB_UPLOADS)]
PROCESSING: Final = [uid(2, 96_400 + number) for number in range(queue.JOB_UPLOADS)]
LEASE: Final = timedelta(seconds=15)
OF_A_BATCH: Final = {f"idx_uploads_batch_{name}" for name in ("id", "order", "ref", "status", "version")}
OF_OBJECTS: Final = {"objects_pkey", "idx_uploads_object_id", "idx_uploads_thumbnail_object_id"}
NOTHING: Final = [None] * 100
ZEROS: Final = [0] * 100
NAMES: Final = [str(number) for number in range(100)]
ENDS: Final = (ZEROS, ["completed"] * 100, *[NOTHING] * 5, [8] * 100, *[NOTHING] * 3)
CLAIM: Final = (LEASE, NOW, 5, "worker-lost", "It went silent.", '{"code": "a", "detail": "b"}', [BIG], [9])

KEYS: Final = [uid(7, 1000 + number) for number in range(100)]
NEW: Final = [uid(8, number) for number in range(100)]
SAVED: Final = (
    [BIG], ["processing"], [30_000], [0], [12_000], [500], [17_500], [17_500], [0], [0], [0], [0], [None], [9], [None],
    [NOW], [None], [NOW],
)  # fmt: skip
ADDED: Final = (
    *([GROWING], *SAVED[1:]), [8], [uid(1, 7)], [65_536], [OWNER_OF_GROWING], [GROWING], [uid(1, 7)], [9], [NOW],
    [1] * 100, NEW, [], NAMES, [100] * 100, [], [bytes(32)] * 100, [], ZEROS,
    [bytes(1600)], True,
)  # fmt: skip
DECLARED: Final = (
    OWNER_OF_GROWING, GROWING, 9, NOW, NOW, NEW, NAMES, NAMES, ["pending"] * 100, [100] * 100, [100] * 100, NOTHING,
    [bytes(32)] * 100, NOTHING, [uid(1, 7)] * 100, ZEROS, NOTHING, [False] * 100,
)  # fmt: skip
WRITTEN: Final = (
    PENDING, ["failed"] * 100, NOTHING, ZEROS, NOTHING, ["{}"] * 100, NOTHING, NOTHING, [9] * 100, [NOW] * 100,
    [NOW] * 100,
)  # fmt: skip
BEGUN: Final = (
    NEW, [OWNER_OF_SMALL] * 100, NAMES, [bytes(32)] * 100, NEW, [True] * 100, ZEROS, NOTHING, [NOW] * 100,
)  # fmt: skip

Statement: TypeAlias = tuple[str, tuple[object, ...], set[str], int]
"""Text, arguments, the indexes that may serve it, and how many entries of tables and indexes it may read at most."""

HOT: Final[dict[str, Statement]] = {
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
        {"idx_upload_batches_owner_status"},
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
    "history of an upload": (upload_attempts.LIST, (uid(2, 20_010), 0, 100), {"upload_attempts_pkey"}, 120),
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
        8,
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
    "cancel a batch": (
        uploads.CANCEL,
        (BIG, "pending", NIL, 100, NOW, 9),
        {"idx_uploads_batch_status", "uploads_pkey"},
        2500,  # the planner looks for the end of an index past what others left dead there
    ),
    "cancel more of a batch": (
        uploads.CANCEL,
        (BIG, "pending", uid(2, 115_000), 100, NOW, 9),
        {"idx_uploads_batch_status", "uploads_pkey"},
        2500,
    ),
    "cancel a batch in which nothing is unfinished": (
        uploads.CANCEL,
        (SMALL, "pending", NIL, 100, NOW, 9),
        {"idx_uploads_batch_status", "uploads_pkey"},
        250,
    ),
    "let uploads of a batch go on alone": (
        uploads.LEAVE,
        (BIG, uid(2, 100_000), 100, NOW),
        {"idx_uploads_batch_order", "uploads_pkey"},
        250,
    ),
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
    "make objects known": (
        objects.RECORD,
        ([uid(1, number) for number in range(1, 200, 2)], [65_536] * 100),
        set(),
        250,
    ),
    "save a batch": (batches.SAVE, SAVED, {"upload_batches_pkey", "quota_usage_pkey"}, 20),
    "add files": (arrivals.KEEP, ADDED, {"upload_batches_pkey", "quota_usage_pkey"}, 900),
    "look at files": (
        arrivals.GLIMPSE,
        (OWNER_OF_BIG, [number.to_bytes(32) for number in range(100)], [100] * 100, [BIG] * 100, NAMES),
        {"idx_uploads_stored_bytes", "idx_uploads_batch_ref"},
        250,
    ),
    "declare files": (receiving.INSERT, DECLARED, set(), 400),
    "write declared files": (receiving.WRITE, WRITTEN, {"uploads_pkey", "upload_batches_pkey"}, 250),
    "ask a writer to let go": (receiving.ASK, (uid(2, 7), uid(9, 0)), {"uploads_pkey"}, 4),
    "delete parts": (receiving.DELETE_EXPIRED_PARTS, (PENDING, NOW), {"uploads_pkey"}, 250),
    "whether anything is counted": (quota_usage.IS_COUNTING, (), {"quota_usage_pkey"}, 4),
    "set a quota": (quotas.PUT, (uid(3, 7), 1, 1, 1, 1), set(), 4),
    "drop a quota": (quotas.DELETE, (uid(3, 7),), {"quotas_pkey"}, 4),
    "note uses of keys": (
        api_keys.NOTE_USES,
        ([uid(6, number) for number in range(100)], [NOW] * 100),
        {"api_keys_pkey"},
        450,
    ),
    "whether there are keys": (api_keys.ANY, (), {"api_keys_pkey", "idx_api_keys_digest"}, 4),
    "revoke a key": (api_keys.REVOKE, (uid(6, 7), NOW), {"api_keys_pkey"}, 4),
    "find a webhook": (webhook_endpoints.FIND, (uid(4, 7), uid(3, 0)), {"webhook_endpoints_pkey"}, 4),
    "disable a webhook": (webhook_endpoints.DISABLE, (uid(4, 7), NOW), {"webhook_endpoints_pkey"}, 4),
    "delete a webhook": (webhook_endpoints.DELETE, (uid(4, 7), uid(3, 0)), {"webhook_endpoints_pkey"}, 4),
    "lock secrets": (webhook_secrets.LOCK, (uid(3, 5),), {"webhook_secrets_pkey"}, 4),
    "save secrets": (webhook_secrets.SAVE, (uid(3, 5), "whsec_", "[]"), {"webhook_secrets_pkey"}, 4),
    "a key of the service": (service_keys.GET, ("cursor",), {"service_keys_pkey"}, 4),
    "find a request": (idempotency_keys.FIND, (uid(3, 7), "key 7"), {"idempotency_keys_user_id_key_key"}, 4),
    "forget a request": (
        idempotency_keys.DELETE,
        (uid(7, 7),),
        {"idempotency_keys_pkey", "idempotency_runs_pkey"},
        20,
    ),
    "forget old requests": (
        idempotency_keys.DELETE_EXPIRED,
        (datetime(2026, 1, 1, 0, 30, tzinfo=UTC), 1000),
        {"idempotency_keys_pkey", "idx_idempotency_keys_expiring"},
        1500,  # the planner looks for the end of an index past what others left dead there
    ),
    "begin requests": (idempotency_runs.BEGIN, BEGUN, set(), 250),
    "go on with requests": (
        idempotency_runs.GO_ON,
        (KEYS, [3] * 100, [4] * 100, NOTHING, [NOW] * 100),
        {"idempotency_keys_pkey"},
        250,
    ),
    "keep parts of requests": (
        idempotency_runs.INSERT,
        (KEYS, [3] * 100, ZEROS, [bytes(32)] * 100, [b"x"] * 100),
        set(),
        250,
    ),
    "parts of a request": (idempotency_runs.FINGERPRINTS, (uid(7, 7),), {"idempotency_runs_pkey"}, 8),
    "results of a request": (idempotency_runs.RESULTS, (uid(7, 7), 2), {"idempotency_runs_pkey"}, 8),
    "trim the log of the queue": (
        queue.TRIM_LOG,
        (timedelta(days=1), 100),
        {"pgqueuer_log_created", "pgqueuer_log_pkey"},
        500,
    ),
}

NOT_HOT: Final = {
    api_keys.INSERT,  # a new row, which refers to none
    api_keys.LIST,  # an operator's command, which asks for all
    batches.INSERT,  # a new row, which refers to none, and what "whether anything is counted" asks
    idempotency_keys.INSERT,  # a new row, which refers to none
    quota_usage.CLEAR,  # an operator's command, about all
    quota_usage.COUNT,  # the same
    quotas.LIST,  # the same
    webhook_endpoints.INSERT,  # a new row, which refers to none
    webhook_outbox.INSERT,  # the same
    webhook_secrets.ADD,  # the same
    work.SWEEP_ALONE,  # reads no table
}
"""Statements that look for nothing, or for everything."""
