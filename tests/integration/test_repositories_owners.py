"""Each SQL statement names the owner whose rows it is about, or stands here with what keeps others' rows from it.

A new statement is either found to be bound to an owner, or this test asks why not.
"""

import re
from typing import Final

from tests.integration.test_repositories_statements import STATEMENTS

BOUND: Final = re.compile(
    r"\b(?:\w\.)?user_id (?:=|IS NOT DISTINCT FROM) (?:ANY\()?\$\d"  # rows of the owner that is given
    r"|\(\w\.user_id, [\w., ]+\) >= \(\$\d"  # the same, as a range of an index
    r"|\$\d::uuid AS user_id\b"
    r"|\be\.user_id = b\.user_id\b"  # what the owner of each batch has
    r"|INSERT INTO \w+(?: AS \w+)? \([^)]*\buser_id\b"  # new rows, which say whose they are
)

OPERATORS: Final = "run by an operator's command, which no route reaches"
SECRET: Final = "whoever has the secret is its owner; that is what it finds out"
READ_TOGETHER: Final = "many callers' batches in one read; each caller is given only what is theirs, or NotFoundError"
LOCKED_TOGETHER: Final = "many callers' batches locked in the order of ids; then NotFoundError for who does not own one"
LOCKED: Final = "rows of batches that this transaction has locked, after their owner was compared"
OWNED_BEFORE: Final = "the id is of a row that was found by its owner before"
WORKERS: Final = "the work of workers, for all owners; nobody is told what it returns"
SWEEPERS: Final = "what sweepers remove or go on with when its time is over, for all owners; nobody is told"
OF_NOBODY: Final = "rows that have no owner: bytes in the store, named by random ids that no answer shows"
WHOLE_SERVICE: Final = "about the whole service: no row of any owner is told of"

UNBOUND: Final = {
    "api_keys.FIND": SECRET,
    "api_keys.LIST": OPERATORS,
    "api_keys.ANY": WHOLE_SERVICE,
    "api_keys.REVOKE": OPERATORS,
    "api_keys.NOTE_USES": OWNED_BEFORE,
    "batches.BY_IDS": READ_TOGETHER,
    "batches.PROCESSORS_OF": WORKERS,
    "batches.LOCK": LOCKED_TOGETHER,
    "batches.SAVE": LOCKED,
    "batches.DELETE": LOCKED,
    "idempotency_keys.DELETE": OWNED_BEFORE,
    "idempotency_keys.DELETE_EXPIRED": SWEEPERS,
    "idempotency_runs.GO_ON": OWNED_BEFORE,
    "idempotency_runs.INSERT": OWNED_BEFORE,
    "idempotency_runs.FINGERPRINTS": OWNED_BEFORE,
    "idempotency_runs.RESULTS": OWNED_BEFORE,
    "objects.RECORD": OF_NOBODY,
    "objects.EXISTING": OF_NOBODY,
    "objects.HOLD": OF_NOBODY,
    "objects.PAGE": OF_NOBODY,
    "objects.DELETE_UNUSED": OF_NOBODY,
    "quota_usage.IS_COUNTING": WHOLE_SERVICE,
    "quota_usage.CLEAR": OPERATORS,
    "quotas.LIST": OPERATORS,
    "receiving.BY_IDS": "by ids found by their owner before; used only where of the submission's own batch",
    "receiving.BY_REFS": "refs of batches whose owner was compared before",
    "receiving.LOCK": LOCKED,
    "receiving.LOCK_REFS": LOCKED,
    "receiving.WRITE": LOCKED,
    "receiving.MOVE": OWNED_BEFORE,
    "receiving.ASK": OWNED_BEFORE,
    "receiving.WATCH": OWNED_BEFORE,
    "receiving.EXPIRED": SWEEPERS,
    "receiving.DELETE_EXPIRED_PARTS": SWEEPERS,
    "service_keys.GET": WHOLE_SERVICE,
    "upload_attempts.LIST": OWNED_BEFORE,
    "uploads.CANCEL": LOCKED,
    "uploads.LEAVE": LOCKED,
    "uploads.DELETE_ALL": LOCKED,
    "webhook_deliveries.CLAIM": WORKERS,
    "webhook_deliveries.RECORD": WORKERS,
    "webhook_deliveries.GIVE_UP": OWNED_BEFORE,
    "webhook_deliveries.DELETE_OLD": SWEEPERS,
    "webhook_endpoints.DISABLE": WORKERS,
    "work.BATCHES_OF": WORKERS,
    "work.CLAIM": WORKERS,
    "work.RENEW": WORKERS,
    "work.FINISH": WORKERS,
    "work.RELEASE": WORKERS,
    "work.IN_BATCH": LOCKED,
    "work.RETRY_ALL": LOCKED,
    "work.RETRY_CHOSEN": LOCKED,
    "work.SWEEP_ALONE": WHOLE_SERVICE,
    "work.FORGOTTEN": SWEEPERS,
    "work.DUE": SWEEPERS,
    "work.EXPIRED": SWEEPERS,
    "queue.TRIM_LOG": SWEEPERS,
}


def test_each_statement_is_bound_to_an_owner_or_has_a_reason_not_to_be() -> None:
    by_name = {".".join(name.split(".")[-2:]): sql for name, sql in STATEMENTS.items()}
    assert len(by_name) == len(STATEMENTS)
    assert {name for name, sql in by_name.items() if not BOUND.search(sql)} == UNBOUND.keys()
