"""Batches as the next commit will find them, most likely: as this process has left them. No I/O but a clock."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple
from uuid import UUID

from app.domain.batch import Batch
from app.ingest.foresight import Sight

_BATCHES: Final = 1000
"""Of so many it is remembered how they were left."""
_FRESH_SECONDS: Final = 0.1


class _Left(NamedTuple):
    since: int
    """The version from which on nobody else has moved the batch."""
    batch: Batch
    at: float


class LastBatches:
    """How the group commit of this process has left the batches that it moved.

    What is told by it holds only if the batches are found to be so, by their versions, when they are locked.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic: Final = monotonic
        self._left: Final[dict[UUID, _Left]] = {}

    def learn(self, before: Mapping[UUID, Batch], moved: Iterable[Batch]) -> None:
        """Remember what a commit made of batches that it has found as `before`."""
        if len(self._left) > _BATCHES:
            self._left.clear()
        now = self._monotonic()
        for batch in moved:
            version = before[batch.id].version
            last = self._left.get(batch.id)
            since = last.since if last and last.batch.version == version else version
            self._left[batch.id] = _Left(since, batch, now)

    def forget(self, batch_ids: Iterable[UUID]) -> None:
        """Forget batches that were found to be otherwise, or of which nothing is known for sure."""
        for batch_id in batch_ids:
            self._left.pop(batch_id, None)

    def recall(self, wanted: Iterable[tuple[UUID, UUID]]) -> dict[UUID, Batch]:
        """Return those of the batches, each given with an owner, that were left a moment ago and are of that owner.

        Nothing takes less time for somebody else because the batch is there.
        """
        since = self._monotonic() - _FRESH_SECONDS
        found: dict[UUID, Batch] = {}
        for batch_id, owner in wanted:
            last = self._left.get(batch_id)
            if last and last.at >= since and last.batch.user_id == owner:
                found[batch_id] = last.batch
        return found

    def foretell(self, sights: Iterable[Sight]) -> dict[UUID, Batch] | None:
        """Return the batches that groups were seen to join, as they are now if nobody else has moved them since.

        None where what was seen has to be locked: uploads to be filled or compared with, bytes to be referred to.
        Groups know of each other what they look at, so that what this process alone has moved is still as it was seen.
        """
        batches: dict[UUID, Batch] = {}
        for sight in sights:
            if sight.held or not sight.is_new:
                return None
            for batch in sight.batches.values():
                if batch.id not in batches or batch.version < batches[batch.id].version:
                    batches[batch.id] = batch
        for batch in batches.values():
            last = self._left.get(batch.id)
            if last and last.since <= batch.version <= last.batch.version:
                batches[batch.id] = last.batch
        return batches
