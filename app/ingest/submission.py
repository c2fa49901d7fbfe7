"""What one request has ready for one batch, on its way through the group commit."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from app.domain.batch import Batch
from app.domain.errors import BoatloadError
from app.domain.receiving import Place
from app.domain.upload import Refusal, Upload
from app.ingest.arrival import Arrival
from app.ingest.keyed import Stretch

Held = dict[tuple[UUID, bytes, int], Place]
"""Where bytes lie, by their owner, digest and size."""
Kept = tuple[Batch, list[Upload]]
Draft = Callable[[Sequence[Arrival], Sequence[Upload | Refusal]], bytes]
"""Writes down what is to be said of files: of their rows, while the database is busy with them and they may still be
refused, or why there is no row."""


@dataclass(slots=True, eq=False)
class Submission:
    """What one request has ready for one batch of `owner`."""

    owner: UUID
    batch_id: UUID
    arrivals: Sequence[Arrival]
    """Where one names a ref or an upload, it is the only one."""
    opens: bool = False
    """Whether the batch is to be opened first, under that id."""
    seals: bool = False
    """Whether the batch is to be sealed behind the arrivals."""
    one_by_one: bool = False
    """Whether arrivals that are over their owner's quota are refused each for itself; else all are, with an error."""
    behind: "Submission | None" = None
    """The one before it of the same request: where that was refused, so is this, and what is kept has no gap."""
    draft: Draft | None = None
    stretch: Stretch | None = None
    """What is noted of it, where its request has a key."""
    kept: asyncio.Future[Kept] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    places: list[Place | None] = field(default_factory=list)
    """For each arrival its object and offset, once it is durable."""
    refusal: BoatloadError | None = None
    """Why it was refused."""
    drafted: bytes = b""
    """What `draft` returned; good once it is kept."""


def refuse(group: Sequence[Submission], error: BoatloadError) -> None:
    """Say of each that it is refused, and why, unless something else was said before."""
    for submission in group:
        submission.refusal = submission.refusal or error
        if not submission.kept.done():
            submission.kept.set_exception(error)
