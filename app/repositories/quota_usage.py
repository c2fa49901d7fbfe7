"""`quota_usage`: what each owner holds, counted in the transactions that change it, and compared with `quotas`.

Counting begins when the first quota is set. From then on there is a row of NOBODY, and one of each who holds something;
before that there is none, and whatever changes a batch learns that with its own statement, so that it costs no other.

The owner's row is the last that a transaction locks, and several are locked in the order of their owners.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, LiteralString
from uuid import UUID

from app.domain.quota import Holding, Quota, Standing, held_by
from app.domain.upload import Upload

if TYPE_CHECKING:
    import asyncpg

    from app.db.pool import Connection

NOBODY: Final = UUID(int=0)
"""Owns nothing. What `quotas` says of it holds for all whom it does not name."""

COUNTED: Final[LiteralString] = """
    EXISTS (SELECT FROM quota_usage WHERE user_id = '00000000-0000-0000-0000-000000000000')
"""
COUNTING: Final[LiteralString] = COUNTED + " AS counting"

HOLDING: Final[LiteralString] = """
    coalesce(sum(
        CASE WHEN status = 'receiving' THEN coalesce(size_bytes, received_bytes)
            WHEN object_id IS NOT NULL THEN received_bytes ELSE 0 END
    ), 0)::bigint AS bytes,
    count(*) FILTER (WHERE status = 'receiving' OR object_id IS NOT NULL) AS files,
    count(*) FILTER (WHERE status = 'receiving') AS open_uploads
"""
"""What rows of `uploads` hold, as `held_by` has it."""

MOVE: Final[LiteralString] = """
    WITH moved AS (
        INSERT INTO quota_usage AS u (user_id, bytes, files, open_batches, open_uploads)
        SELECT v.user_id, v.bytes, v.files, v.open_batches, v.open_uploads
        FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
            AS v (user_id, bytes, files, open_batches, open_uploads)
        WHERE EXISTS (SELECT FROM quota_usage WHERE user_id = '00000000-0000-0000-0000-000000000000')
        ORDER BY v.user_id
        ON CONFLICT (user_id) DO UPDATE SET
            bytes = u.bytes + excluded.bytes, files = u.files + excluded.files,
            open_batches = u.open_batches + excluded.open_batches, open_uploads = u.open_uploads + excluded.open_uploads
        RETURNING u.user_id, u.bytes, u.files, u.open_batches, u.open_uploads
    )
    SELECT
        m.user_id, m.bytes, m.files, m.open_batches, m.open_uploads, coalesce(q.bytes, a.bytes) AS most_bytes,
        coalesce(q.files, a.files) AS most_files, coalesce(q.open_batches, a.open_batches) AS most_open_batches,
        coalesce(q.open_uploads, a.open_uploads) AS most_open_uploads
    FROM moved m
    LEFT JOIN quotas q ON q.user_id = m.user_id
    LEFT JOIN quotas a ON a.user_id = '00000000-0000-0000-0000-000000000000'
"""

FIND: Final[LiteralString] = (
    """
    SELECT
        coalesce(u.bytes, 0) AS bytes, coalesce(u.files, 0) AS files, coalesce(u.open_batches, 0) AS open_batches,
        coalesce(u.open_uploads, 0) AS open_uploads, coalesce(q.bytes, a.bytes) AS most_bytes,
        coalesce(q.files, a.files) AS most_files, coalesce(q.open_batches, a.open_batches) AS most_open_batches,
        coalesce(q.open_uploads, a.open_uploads) AS most_open_uploads, """
    + COUNTING
    + """
    FROM (SELECT $1::uuid AS user_id) o
    LEFT JOIN quota_usage u ON u.user_id = o.user_id
    LEFT JOIN quotas q ON q.user_id = o.user_id
    LEFT JOIN quotas a ON a.user_id = '00000000-0000-0000-0000-000000000000'
"""
)

IS_COUNTING: Final[LiteralString] = "SELECT " + COUNTING

CLEAR: Final[LiteralString] = "DELETE FROM quota_usage"

COUNT: Final[LiteralString] = (
    """
    INSERT INTO quota_usage (user_id, bytes, files, open_batches, open_uploads)
    SELECT
        o.user_id, coalesce(sum(o.bytes), 0), coalesce(sum(o.files), 0), coalesce(sum(o.open_batches), 0),
        coalesce(sum(o.open_uploads), 0)
    FROM (
        SELECT user_id, 0 AS open_batches, """
    + HOLDING
    + """ FROM uploads GROUP BY user_id
        UNION ALL
        SELECT user_id, count(*), 0, 0, 0 FROM upload_batches WHERE status IN ('pending', 'processing') GROUP BY user_id
        UNION ALL
        SELECT '00000000-0000-0000-0000-000000000000'::uuid, 0, 0, 0, 0
    ) o
    GROUP BY o.user_id
"""
)

# Whatever changes what is held has locked rows of one of these. Batches first, as everywhere; reading goes on.
_STOP_CHANGES: Final = "LOCK TABLE upload_batches, uploads IN EXCLUSIVE MODE"


class QuotaUsage:
    """What owners hold, and how this transaction changes it. Bound to one connection.

    The other repositories say what they change; `settle` writes it, at the end.
    """

    def __init__(self, connection: "Connection") -> None:
        self._connection: Final = connection
        self.counting: bool | None = None
        """Whether anything is counted, once a statement of this transaction has seen it."""
        self.standings: Final[dict[UUID, Standing]] = {}
        """How owners stand whom this transaction has locked, as far as it has counted."""
        self._uploads: Final[list[tuple[int, Sequence[Upload]]]] = []
        self._moves: Final[list[tuple[UUID, Holding]]] = []

    def add(self, uploads: Sequence[Upload]) -> None:
        """Say that there are these uploads now."""
        self._uploads.append((1, uploads))

    def remove(self, uploads: Sequence[Upload]) -> None:
        """Say that there are no more uploads that were like these."""
        self._uploads.append((-1, uploads))

    def move(self, owner: UUID, change: Holding) -> None:
        """Say that an owner holds more, or less."""
        self._moves.append((owner, change))

    async def settle(self) -> None:
        """Count what this transaction has changed. Raises QuotaExceededError, and then it must not be committed."""
        if self.counting is False or not (self._uploads or self._moves):
            return
        changes = self._changes()
        before = await self._move(changes)
        for owner, standing in before.items():
            self.standings[owner] = standing.with_more(changes[owner])

    async def lock(self, owners: Iterable[UUID]) -> dict[UUID, Standing]:
        """Let nobody else change what these hold until this transaction ends, and return it; nothing if not counting.

        What this transaction itself has changed is not in it.
        """
        standings = await self._move(dict.fromkeys(owners, Holding()))
        self.standings.update(standings)
        return standings

    async def find(self, owner: UUID) -> Standing | None:
        """Return what an owner holds and may hold, or None while nothing is counted."""
        row = await self._connection.fetchrow(FIND, owner)
        return _standing(row) if row and row["counting"] else None

    async def is_counting(self) -> bool:
        """Say whether anything is counted."""
        counting: bool = await self._connection.fetchval(IS_COUNTING)
        return counting

    async def recount(self) -> None:
        """Count everything anew, and go on counting from there. Until this transaction ends, nothing else is written.

        The first thing that its transaction does.
        """
        await self._connection.execute(_STOP_CHANGES)
        await self._connection.execute(CLEAR)
        await self._connection.execute(COUNT)

    def _changes(self) -> dict[UUID, Holding]:
        """Return by owner what has changed, without those for whom nothing has."""
        totals: dict[UUID, Holding] = {}
        for owner, change in self._moves:
            totals[owner] = change + totals.get(owner, Holding())
        for sign, uploads in self._uploads:
            for owner in dict.fromkeys(upload.user_id for upload in uploads):
                held = held_by(upload for upload in uploads if upload.user_id == owner)
                totals[owner] = (held if sign > 0 else -held) + totals.get(owner, Holding())
        return {owner: change for owner, change in totals.items() if change != Holding()}

    async def _move(self, changes: dict[UUID, Holding]) -> dict[UUID, Standing]:
        """Change what owners hold, and return what they held before, as far as it is counted."""
        if not changes:
            return {}
        moves = changes.values()
        rows = await self._connection.fetch(
            MOVE,
            list(changes),
            [change.bytes for change in moves],
            [change.files for change in moves],
            [change.open_batches for change in moves],
            [change.open_uploads for change in moves],
        )
        before: dict[UUID, Standing] = {}
        for row in rows:
            now = _standing(row)
            before[row["user_id"]] = Standing(now.used + -changes[row["user_id"]], now.quota)
        return before


def holding_of(row: "asyncpg.Record") -> Holding:
    """Read the columns of HOLDING; others are passed over."""
    return Holding(row["bytes"], row["files"], 0, row["open_uploads"])


def _standing(row: "asyncpg.Record") -> Standing:
    return Standing(
        Holding(row["bytes"], row["files"], row["open_batches"], row["open_uploads"]),
        Quota(row["most_bytes"], row["most_files"], row["most_open_batches"], row["most_open_uploads"]),
    )
