"""What owners hold by the rows, beside what is counted of them."""

from typing import Final
from uuid import UUID

from app.domain.quota import Holding, Quota
from tests.support.services import OWNER, Services

LARGE: Final = Quota(1 << 50, 1 << 40, 1 << 40, 1 << 40)
KIB: Final = 1024

COUNTED_WRONG: Final = """
    WITH held AS (
        SELECT user_id, size_bytes AS bytes, 1 AS files, 0 AS open_batches, 1 AS open_uploads
        FROM uploads WHERE status = 'receiving' AND size_bytes IS NOT NULL
        UNION ALL
        SELECT user_id, received_bytes, 1, 0, 1 FROM uploads WHERE status = 'receiving' AND size_bytes IS NULL
        UNION ALL
        SELECT user_id, received_bytes, 1, 0, 0 FROM uploads WHERE status <> 'receiving' AND object_id IS NOT NULL
        UNION ALL
        SELECT user_id, 0, 0, 1, 0 FROM upload_batches WHERE completed_at IS NULL
    ), counted AS (
        SELECT
            user_id, sum(bytes) AS bytes, sum(files) AS files, sum(open_batches) AS open_batches,
            sum(open_uploads) AS open_uploads
        FROM held GROUP BY user_id
    )
    SELECT
        user_id, row(c.bytes, c.files, c.open_batches, c.open_uploads)::text AS held,
        row(u.bytes, u.files, u.open_batches, u.open_uploads)::text AS counted
    FROM counted c FULL JOIN quota_usage u USING (user_id)
    WHERE (coalesce(c.bytes, 0), coalesce(c.files, 0), coalesce(c.open_batches, 0), coalesce(c.open_uploads, 0))
        IS DISTINCT FROM (u.bytes, u.files, u.open_batches, u.open_uploads)
"""
"""The owners of whom something else is counted than they hold, in one snapshot."""


async def counted_wrong(services: Services) -> list[tuple[object, ...]]:
    """Return the owners of whom something else is counted than they hold."""
    return [tuple(row) for row in await services.rows(COUNTED_WRONG)]


async def used(services: Services, owner: UUID = OWNER) -> Holding:
    """Return what is counted of an owner, once it is known to be what the rows say."""
    assert await counted_wrong(services) == []
    assert await services.counted_wrong() == []
    standing = await services.quotas.find(owner)
    assert standing
    return standing.used
