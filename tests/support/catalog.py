"""What PostgreSQL's catalog says of a schema, as plain values to compare."""

from dataclasses import dataclass
from typing import Final

from tests.support.postgres import fetch

REVISIONS: Final = (
    "create_uploads",
    "add_batch_support",
    "batch_account",
    "job_queue",
    "worker_guards",
    "processors",
    "webhooks",
    "doors",
    "credentials",
    "quotas",
    "idempotency",
    "enqueue",
)
"""All, oldest first."""

COLUMNS: Final = """
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
    pg_get_expr(d.adbin, d.adrelid) AS "default"
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
"""

INDEXES: Final = """
SELECT c.relname AS name, CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END
    || substring(pg_get_indexdef(i.indexrelid) FROM 'USING btree (.*)') AS definition
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass($1)
"""

# PostgreSQL 18 lists NOT NULL among the constraints; the columns say it already, on every version.
CONSTRAINTS: Final = """
SELECT conname AS name, pg_get_constraintdef(oid) AS definition
FROM pg_constraint WHERE conrelid = to_regclass($1) AND contype <> 'n'
"""

TABLES: Final = """
SELECT n.nspname || '.' || c.relname AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'S', 'v') AND n.nspname !~ '^pg_|^information_schema$' ORDER BY 1
"""

ROUTINES: Final = """
SELECT pg_get_functiondef(p.oid) AS definition FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname !~ '^pg_|^information_schema$'
UNION ALL
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT enumtypid::regtype::text || ' ' || enumlabel FROM pg_enum
ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Column:
    type: str
    not_null: bool
    default: str | None = None


def columns(url: str, table: str) -> dict[str, Column]:
    return {row["name"]: Column(row["type"], row["not_null"], row["default"]) for row in fetch(url, COLUMNS, table)}


def indexes(url: str, table: str) -> dict[str, str]:
    """Name to definition, like `UNIQUE (batch_id, ref) WHERE (ref IS NOT NULL)`."""
    return {row["name"]: row["definition"] for row in fetch(url, INDEXES, table)}


def constraints(url: str, table: str) -> dict[str, str]:
    return {row["name"]: row["definition"] for row in fetch(url, CONSTRAINTS, table)}


def everything(url: str) -> dict[str, object]:
    """All that the schema consists of; two databases with the same are alike."""
    tables = [row["name"] for row in fetch(url, TABLES)]
    found: dict[str, object] = {
        table: (columns(url, table), indexes(url, table), constraints(url, table)) for table in tables
    }
    found["routines"] = [row["definition"] for row in fetch(url, ROUTINES)]
    return found
