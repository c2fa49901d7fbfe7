"""What of a group is within its owners' quotas, where not all of it is. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from app.domain.batch import FINAL_BATCH, Batch
from app.domain.errors import QuotaExceededError
from app.domain.quota import Holding, Standing, held_by
from app.domain.upload import Refusal
from app.ingest.arrival import Arrival
from app.ingest.joining import Joined, Known


class Allowance:
    """How owners stand, whose rows this transaction has locked, as one after the other takes of it.

    False where it says nothing of anybody; then nothing is refused.
    """

    def __init__(self, standings: Mapping[UUID, Standing]) -> None:
        self._standings: Final = dict(standings)

    def __bool__(self) -> bool:
        """Say whether anything is limited."""
        return bool(self._standings)

    def refuse_each(self, owner: UUID, arrivals: Sequence[Arrival]) -> bool:
        """Refuse those new files that there is no room for, in their order, and say whether there were any."""
        standing = self._standings.get(owner)
        refused = False
        for arrival in arrivals:
            if standing is None or arrival.refusal:
                continue
            try:
                standing = standing.with_more(Holding(arrival.size_bytes, 1))
            except QuotaExceededError as error:
                arrival.refusal = Refusal.of(error)
                refused = True
        return refused

    def take(self, owner: UUID, before: Batch | None, joined: Joined, known: Known) -> None:
        """Take what joining takes; `before`: the batch as it was, if it was; `known`: the uploads that were.

        Raises QuotaExceededError, and nothing was taken.
        """
        standing = self._standings.get(owner)
        if standing is None:
            return
        opened = _open(joined.batch) - (_open(before) if before else 0)
        filled = held_by(known[upload.id].upload for upload in joined.changed)
        more = held_by([*joined.new, *joined.changed]) + -filled + Holding(open_batches=opened)
        self._standings[owner] = standing.with_more(more)


def _open(batch: Batch) -> int:
    return int(batch.status not in FINAL_BATCH)
