"""What of a group cannot join its batch as things stand: refused before its bytes are written, which no row would have.

A look without locks. What changes behind it is found when the batches are locked, and then some bytes are dead.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

from app.domain.batch import Batch
from app.domain.errors import BoatloadError, DigestMismatchError
from app.domain.upload import Refusal
from app.ingest.joining import Joiner, Known
from app.ingest.submission import Submission, refuse
from app.repositories.unit_of_work import UnitOfWork


async def refuse_hopeless(uow: UnitOfWork, group: Sequence[Submission], joiner: Joiner) -> None:
    """Refuse what cannot join. Reads only where something joins a batch that is there already."""
    opened = {submission.batch_id for submission in group if submission.opens}
    asked = [one for one in group if one.batch_id not in opened]
    if not asked:
        return
    batches = {batch.id: batch for batch in await uow.batches.list_by_ids({one.batch_id for one in asked})}
    known = await find_known(uow, asked, batches, lock=False)
    for submission in asked:
        try:
            _check(submission, batches.get(submission.batch_id), known, joiner)
        except BoatloadError as error:
            refuse([submission], error)


def _check(submission: Submission, batch: Batch | None, known: Known, joiner: Joiner) -> None:
    if submission.behind and submission.behind.refusal:
        raise submission.behind.refusal
    found = joiner.check(batch, submission.owner, submission.arrivals, known=known)
    if found and not found.whole and found.declared_sha256 not in {None, submission.arrivals[0].sha256}:
        # It joins, as one that was refused with its bytes.
        submission.arrivals[0].refusal = Refusal.of(DigestMismatchError())


async def find_known(
    uow: UnitOfWork, group: Sequence[Submission], batches: Mapping[UUID, Batch], *, lock: bool
) -> Known:
    """Return the uploads that arrivals fill or are compared with, locked or as they are.

    Such an arrival is alone in its submission. In another owner's batch nothing is looked for: it takes no longer to
    find out that one is there than that there is none.
    """
    ids = {one.arrivals[0].fills for one in group if one.arrivals and one.arrivals[0].fills}
    refs = {
        (one.batch_id, one.arrivals[0].ref): None
        for one in group
        if one.arrivals
        and one.arrivals[0].ref is not None
        and (batch := batches.get(one.batch_id))
        and batch.user_id == one.owner
    }
    rows = uow.receiving
    found = await (rows.lock(ids) if lock else rows.list_by_ids(ids)) if ids else []
    found += await (rows.lock_refs(list(refs)) if lock else rows.list_by_refs(list(refs))) if refs else []
    known: Known = {}
    for one in found:
        known[one.upload.id] = one
        if one.upload.batch_id and one.upload.ref is not None:
            known[one.upload.batch_id, one.upload.ref] = one
    return known
