"""What a group is about to join, seen without locks, before its bytes are written.

What cannot join as things stand is refused: its bytes would lie in a pack, and no row would have them. What changes
behind the look is found when the batches are locked, and then some bytes are dead.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from app.domain.batch import Batch
from app.domain.errors import BoatloadError, DigestMismatchError
from app.domain.upload import Refusal
from app.ingest.joining import Joiner, Known
from app.ingest.submission import Held, Submission, refuse
from app.repositories.unit_of_work import UnitOfWork

Ref = tuple[UUID, str]


@dataclass(frozen=True, slots=True)
class Sight:
    """What a group was seen to join."""

    batches: dict[UUID, Batch] = field(default_factory=dict)
    """Those that it does not open."""
    is_new: bool = True
    """Whether no upload was there that it fills or is compared with."""
    held: Held = field(default_factory=dict)
    """Where bytes lie already, the same as its own and of the same owners."""


async def look(uow: UnitOfWork, group: Sequence[Submission], joiner: Joiner, recalled: Mapping[UUID, Batch]) -> Sight:
    """Refuse what cannot join, and return what the others were seen to join; `recalled` batches are as last seen."""
    opened = {submission.batch_id for submission in group if submission.opens}
    asked = [one for one in group if one.batch_id not in opened]
    batches = {one.batch_id: recalled[one.batch_id] for one in asked if one.batch_id in recalled}
    if unknown := {one.batch_id for one in asked} - batches.keys():
        batches |= {batch.id: batch for batch in await uow.batches.list_by_ids(unknown)}
    held: Held = {}
    filled = any(arrival.fills for submission in asked for arrival in submission.arrivals[:1])
    for owner in {submission.owner for submission in group}:
        own = [submission for submission in group if submission.owner == owner]
        found, named = await _glimpse(uow, owner, own, _refs(own, batches))
        held |= found
        filled = filled or named
    known = await find_known(uow, asked, batches, lock=False) if filled else {}
    current, old = batches.copy(), set(recalled)
    for submission in asked:
        batch_id = submission.batch_id
        error = _fault(submission, current.get(batch_id), known, joiner)
        if error and batch_id in old:  # there may be room since
            old.remove(batch_id)
            current.pop(batch_id)
            current |= {batch.id: batch for batch in await uow.batches.list_by_ids([batch_id])}
            error = _fault(submission, current.get(batch_id), known, joiner)
        if error:
            refuse([submission], error)
    return Sight(batches, not known, held)  # not the current ones: uploads were looked for before those were read


async def _glimpse(uow: UnitOfWork, owner: UUID, group: Iterable[Submission], refs: Sequence[Ref]) -> tuple[Held, bool]:
    """Return where bytes of the owner, the same as these, lie already; and whether an upload has one of the refs."""
    arrivals = [one for submission in group for one in submission.arrivals if not one.refusal]
    contents = list(dict.fromkeys((one.sha256, one.size_bytes) for one in arrivals))
    if not contents and not refs:
        return {}, False
    found, named = await uow.arrivals.glimpse(owner, contents, refs)
    return {(owner, *contents[number]): place for number, place in found.items()}, named


def _fault(submission: Submission, batch: Batch | None, known: Known, joiner: Joiner) -> BoatloadError | None:
    """Return what keeps it from its batch, if anything does."""
    if submission.behind and submission.behind.refusal:
        return submission.behind.refusal
    try:
        found = joiner.check(batch, submission.owner, submission.arrivals, known=known)
    except BoatloadError as error:
        return error
    if found and not found.whole and found.declared_sha256 not in {None, submission.arrivals[0].sha256}:
        # It joins, as one that was refused with its bytes.
        submission.arrivals[0].refusal = Refusal.of(DigestMismatchError())
    return None


async def find_known(
    uow: UnitOfWork, group: Sequence[Submission], batches: Mapping[UUID, Batch], *, lock: bool
) -> Known:
    """Return the uploads that arrivals fill or are compared with, locked or as they are.

    Such an arrival is alone in its submission.
    """
    ids = {one.arrivals[0].fills for one in group if one.arrivals and one.arrivals[0].fills}
    refs = _refs(group, batches)
    rows = uow.receiving
    found = await (rows.lock(ids) if lock else rows.list_by_ids(ids)) if ids else []
    found += await (rows.lock_refs(refs) if lock else rows.list_by_refs(refs)) if refs else []
    known: Known = {}
    for one in found:
        known[one.upload.id] = one
        if one.upload.batch_id and one.upload.ref is not None:
            known[one.upload.batch_id, one.upload.ref] = one
    return known


def _refs(group: Sequence[Submission], batches: Mapping[UUID, Batch]) -> list[Ref]:
    """Return the refs of arrivals, each once.

    In another owner's batch nothing is looked for: it takes no longer to find out that one is there than that there is
    none.
    """
    refs: dict[Ref, None] = {}
    for submission in group:
        ref = submission.arrivals[0].ref if submission.arrivals else None
        batch = batches.get(submission.batch_id)
        if ref is not None and batch and batch.user_id == submission.owner:
            refs[batch.id, ref] = None
    return list(refs)
