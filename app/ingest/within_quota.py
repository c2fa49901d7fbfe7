"""What of a group is within its owners' quotas, where not all of it is. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

from app.domain.batch import FINAL_BATCH, Batch
from app.domain.errors import QuotaExceededError
from app.domain.quota import Holding, Standing, held_by
from app.domain.upload import Refusal
from app.ingest.arrival import Arrival
from app.ingest.joining import Joined, Known

_OWNERS: Final = 10_000
"""Of so many it is remembered how they stood."""


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


class LastStandings:
    """How owners stood when they were last looked at; of others who are at it as well, it says nothing."""

    def __init__(self) -> None:
        self._standings: Final[dict[UUID, Standing]] = {}

    def learn(self, standings: Mapping[UUID, Standing]) -> None:
        """Remember how these stand now."""
        if len(self._standings) > _OWNERS:
            self._standings.clear()
        self._standings.update(standings)

    def knows(self, owner: UUID) -> bool:
        """Say whether anything of an owner is known: what it holds is counted."""
        return owner in self._standings

    def have_room(self, wanted: Iterable[tuple[UUID, Sequence[Arrival]]]) -> bool:
        """Say whether there was room for all of it, were all of it new."""
        needs: dict[UUID, Holding] = {}
        for owner, arrivals in wanted:
            if owner in self._standings:
                sizes = [arrival.size_bytes for arrival in arrivals if not arrival.refusal]
                needs[owner] = needs.get(owner, Holding()) + Holding(sum(sizes), len(sizes))
        return all(self._standings[owner].has_room(need) for owner, need in needs.items())


def _open(batch: Batch) -> int:
    return int(batch.status not in FINAL_BATCH)
