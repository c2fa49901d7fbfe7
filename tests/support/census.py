"""What a service holds, counted in its tables and in its store: what is refused must leave all of it as it was."""

import asyncio
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import asyncpg

from tests.support.postgres import in_loop
from tests.support.rows import STATES, WRONG_COUNTS
from tests.support.server import Boatload

SETTLE_SECONDS: Final = 10
_POLL_SECONDS: Final = 0.03
WHOLE: Final = frozenset(
    {*STATES, "batches", "changes", "received bytes", "objects", "object bytes", "file bytes", "webhooks", "deliveries"}
)
"""What may be more where something whole was kept; all else in a census says that something is half there."""
_STORED: Final = frozenset({"file bytes", "object bytes", "objects", "received bytes"})
_TOTALS: Final = f"""
    SELECT
        (SELECT count(*) FROM upload_batches) AS "batches",
        (SELECT coalesce(sum(version), 0) FROM upload_batches) AS "changes",
        (SELECT count(*) FROM ({WRONG_COUNTS}) wrong) AS "counted wrong",
        (SELECT coalesce(sum(received_bytes), 0) FROM uploads) AS "received bytes",
        (SELECT count(*) FROM objects) AS "objects",
        (SELECT coalesce(sum(size_bytes), 0) FROM objects) AS "object bytes",
        (SELECT count(*) FROM webhook_endpoints) AS "webhooks",
        (SELECT count(*) FROM webhook_deliveries) AS "deliveries"
"""
_STATES: Final = "SELECT status, count(*) FROM uploads GROUP BY status"
_OBJECTS: Final = "SELECT id FROM objects"

Census = dict[str, int]
"""Rows by kind, uploads by state, files and bytes in the store, files that no row knows, temporary files."""


def census(server: Boatload, until: Callable[[Census], bool] = lambda _: True) -> Census:
    """Count what a server with a database and a local store of its own holds, once no upload is being processed.

    It is counted again `until` that holds, because a server may answer a little before it has cleaned up; after
    SETTLE_SECONDS it is returned all the same.
    """

    async def count() -> Census:
        connection = await asyncpg.connect(str(server.settings["database_url"]))
        deadline = time.monotonic() + SETTLE_SECONDS
        try:
            while True:
                found = await _count(server, connection)
                at_rest = not found["pending"] and not found["processing"]
                if (at_rest and until(found)) or time.monotonic() > deadline:
                    return found
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            await connection.close()

    return in_loop(count)


@contextmanager
def unchanged(server: Boatload, *, besides: Collection[str] = (), **more: int) -> Iterator[None]:
    """Say that the server holds behind the block what it held before it, but for `more`: `failed=1`, `batches=1`.

    Names are those of a Census, with underscores for spaces. Where more is `completed`, what lies in the store is not
    compared; where anything is more, neither is how often batches changed; nor is what is named by `besides`. Counters
    equal the rows in any case.
    """
    given = {name.replace("_", " "): number for name, number in more.items()}
    before = census(server)
    assert before["counted wrong"] == 0, "counters were wrong before"
    assert given.keys() <= before.keys(), f"a census has {sorted(before)}"
    passed_over = (
        set(besides) | ({"changes"} if any(given.values()) else set()) | (_STORED if given.get("completed") else set())
    )
    wanted = {name: count + given.get(name, 0) for name, count in before.items() if name not in passed_over}
    yield
    after = census(server, until=lambda found: wanted.items() <= found.items())
    wrong = {name: f"{count} {after[name] - count:+}" for name, count in wanted.items() if after[name] != count}
    assert not wrong, f"what there should be, and how far it is off: {wrong}"


async def _count(server: Boatload, connection: "asyncpg.Connection[asyncpg.Record]") -> Census:
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        totals = await connection.fetchrow(_TOTALS)
        states = {row["status"]: row["count"] for row in await connection.fetch(_STATES)}
        known = {str(row["id"]) for row in await connection.fetch(_OBJECTS)}
    assert totals is not None
    files = {path.name: path.stat().st_size for path in store_of(server).glob("*/*")}
    return {
        **{name: int(count) for name, count in totals.items()},
        **{state: states.get(state, 0) for state in STATES},
        "file bytes": sum(files.values()),
        "files without a row": len(files.keys() - known),
        "temporary files": _temporary_files(server),
    }


def store_of(server: Boatload) -> Path:
    """The folder in which a server keeps its bytes."""
    url = server.settings.get("storage_url")
    return Path(str(url).removeprefix("file://")) if url else server.objects


def _temporary_files(server: Boatload) -> int:
    """How many files it has open that have no name, any more or ever."""
    count = 0
    for descriptor in Path(f"/proc/{server.pid}/fd").iterdir():
        with suppress(OSError):
            count += os.readlink(descriptor).endswith(" (deleted)")  # noqa: PTH115 - what it points to is not there
    return count
