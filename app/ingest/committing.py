"""What a request has ready, through the group commit: all of it as one, or each file for itself under its ref."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from app.domain.batch import Batch
from app.domain.errors import (
    BatchClosedError,
    BatchFullError,
    BoatloadError,
    QuotaExceededError,
    RefConflictError,
    TooManyUploadsError,
    UploadGoneError,
)
from app.domain.upload import Refusal, Upload
from app.ingest.arrival import Arrival
from app.ingest.group import GroupCommit
from app.ingest.submission import Draft, Kept, Submission

AT_ONCE: Final = 1000
"""So many files of one request are submitted at once: each is a submission, and a group of them holds up the loop."""
_OF_ONE_FILE: Final = (
    BatchClosedError,
    BatchFullError,
    QuotaExceededError,
    RefConflictError,
    TooManyUploadsError,
    UploadGoneError,
)
"""What is said of a ref: another one may be declared already, in a batch that takes no more."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What became of files that a request had ready."""

    batch: Batch | None = None
    """As it was when the last of them was kept; None where none was."""
    uploads: list[Upload] = field(default_factory=list)
    sent: int = 0
    """So many of the files were kept, or refused for what they are."""
    taken: int = 0
    """How many of those were not refused."""
    drafted: bytes = b""
    """What is to be said of those, in their order."""
    error: BoatloadError | None = None
    """What kept the others from being looked at."""


async def commit_together(group: GroupCommit, submission: Submission) -> Committed:
    """Commit a submission, all or none of it."""
    try:
        batch, uploads = await group.submit(submission)
    except BoatloadError as error:
        return Committed(error=error)
    taken = sum(upload.error is None for upload in uploads)
    return Committed(batch, uploads, len(uploads), taken, submission.drafted)


async def commit_each(
    group: GroupCommit,
    owner: UUID,
    batch_id: UUID,
    arrivals: Sequence[Arrival],
    draft: Draft | None,
    *,
    turn: asyncio.Lock,
) -> Committed:
    """Have each file join the batch under its name as its ref, as if it had been put there alone.

    They are committed together, but for more than AT_ONCE. Calls with the same `turn` submit one after the other, so
    that of two files of one ref the first joins. What keeps one of them from its ref is said of that one, which makes
    no upload then, and changes none.
    """
    refusals = [arrival.refusal for arrival in arrivals]
    submissions = []
    for arrival in arrivals:
        if arrival.refusal is None:
            arrival.ref = arrival.filename
            submissions.append(Submission(owner, batch_id, [arrival]))
    answers = iter(await _submit_all(group, submissions, turn))
    known: list[Arrival] = []
    outcomes: list[Upload | Refusal] = []
    batches: list[Batch] = []
    error: BoatloadError | None = None
    for arrival, refusal in zip(arrivals, refusals, strict=True):
        answer = refusal or next(answers)
        if isinstance(answer, tuple):
            batches.append(answer[0])
            outcomes += answer[1]
        elif isinstance(answer, Refusal):
            outcomes.append(answer)
        elif isinstance(answer, _OF_ONE_FILE):
            outcomes.append(Refusal.of(answer))
        elif isinstance(answer, BoatloadError):
            error = error or answer
            continue
        else:
            raise answer
        known.append(arrival)
    uploads = [outcome for outcome in outcomes if isinstance(outcome, Upload)]
    return Committed(
        batch=max(batches, key=lambda batch: batch.version, default=None),
        uploads=uploads,
        sent=len(outcomes),
        taken=sum(map(_is_taken, known, outcomes)),
        drafted=await asyncio.to_thread(draft, known, outcomes) if draft and outcomes else b"",
        error=error,
    )


async def _submit_all(
    group: GroupCommit, submissions: Sequence[Submission], turn: asyncio.Lock
) -> list[Kept | BaseException]:
    """Submit them in their order, and return what becomes of each; the last of them need no turn to be waited for."""
    answers: list[Kept | BaseException] = []
    last: asyncio.Future[list[Kept | BaseException]] | None = None
    async with turn:
        for start in range(0, len(submissions), AT_ONCE):
            answers += await last if last else []
            some = submissions[start : start + AT_ONCE]
            last = asyncio.gather(*map(group.submit, some), return_exceptions=True)
    return answers + (await last if last else [])


def _is_taken(arrival: Arrival, outcome: Upload | Refusal) -> bool:
    """Say whether the upload has the file's bytes, though it may have failed with them."""
    return isinstance(outcome, Upload) and (arrival.already or outcome.error is None)
