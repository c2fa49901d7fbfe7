"""How what is ready joins a batch: new rows, declared ones that are filled, and what is there already. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from app.domain.batch import FINAL_BATCH, Batch, Tally, admit, advance, reopen, tally
from app.domain.errors import DigestMismatchError, NotFoundError, RefConflictError
from app.domain.ids import Clock, Ids
from app.domain.limits import Limits
from app.domain.receiving import Place, Receiving, accepted, check_open, refused
from app.domain.upload import Refusal, Upload, UploadStatus
from app.ingest.arrival import Arrival

Known = dict[UUID | tuple[UUID, str], Receiving]
"""Uploads that stand there already, by their id, and by batch and ref."""


@dataclass(slots=True)
class Joined:
    """What becomes of one submission."""

    batch: Batch
    uploads: list[Upload]
    """One for each arrival."""
    new: list[Upload] = field(default_factory=list)
    changed: list[Upload] = field(default_factory=list)


class Joiner:
    """Makes rows of arrivals. No I/O but ids and the clock."""

    def __init__(self, limits: Limits, *, clock: Clock, new_id: Ids) -> None:
        self._limits: Final = limits
        self._clock: Final = clock
        self._new_id: Final = new_id

    def join(
        self,
        batch: Batch | None,
        owner: UUID,
        arrivals: Sequence[Arrival],
        places: Sequence[Place | None],
        *,
        known: Known,
        seals: bool,
    ) -> Joined:
        """Return the batch with the arrivals in it, and the rows that this makes; `known` learns of them.

        Raises as `check`.
        """
        found = self.check(batch, owner, arrivals, known=known)
        assert batch is not None
        now = self._clock()
        for arrival in arrivals[:1]:
            arrival.already = False
        if not arrivals:
            if not seals or batch.sealed_at or batch.status in FINAL_BATCH:
                return Joined(batch, [])
            return Joined(advance(batch, Tally(), now=now, seal=True), [])
        if found:
            return _fill(batch, arrivals[0], places[0], found, known=known, now=now)
        uploads = [self._row(batch, arrival, place, now) for arrival, place in zip(arrivals, places, strict=True)]
        if arrivals[0].ref is not None:
            made = Receiving(uploads[0], None, False, None, None, batch.status)  # noqa: FBT003
            known[batch.id, arrivals[0].ref] = known[uploads[0].id] = made
        return Joined(advance(batch, tally(uploads), now=now, seal=seals), uploads, new=uploads)

    def check(self, batch: Batch | None, owner: UUID, arrivals: Sequence[Arrival], *, known: Known) -> Receiving | None:
        """Return the upload that the arrivals, only one then, are to fill or are compared with, or None.

        Raises NotFoundError, RefConflictError, or what `admit` and `check_open` raise.
        """
        if batch is None or batch.user_id != owner:
            raise NotFoundError
        if not arrivals:
            return None
        now = self._clock()
        if known and (found := _known(batch, arrivals[0], known)):
            check_open(replace(found, batch_status=batch.status), now=now)
            if _is_other(found, arrivals[0]):
                raise _other(found.upload)
            return found
        if arrivals[0].fills:
            raise NotFoundError
        admit(batch, len(arrivals), max_files=self._limits.max_files_per_batch, now=now)
        return None

    def _row(self, batch: Batch, arrival: Arrival, place: Place | None, now: datetime) -> Upload:
        return Upload(
            id=self._new_id(),
            user_id=batch.user_id,
            batch_id=batch.id,
            ref=arrival.ref,
            filename=arrival.filename,
            status=UploadStatus.FAILED if arrival.refusal else UploadStatus.PENDING,
            size_bytes=None if arrival.refusal else arrival.size_bytes,
            received_bytes=0 if arrival.refusal else arrival.size_bytes,
            content_type=arrival.content_type,
            detected_type=None,
            sha256=None if arrival.refusal else arrival.sha256,
            width=None,
            height=None,
            attempts=0,
            error=arrival.refusal,
            metadata={},
            object_id=place[0] if place else None,
            object_offset=place[1] if place else None,
            batch_version=batch.version + 1,
            created_at=now,
            updated_at=now,
            completed_at=now if arrival.refusal else None,
        )


def _fill(
    batch: Batch, arrival: Arrival, place: Place | None, found: Receiving, *, known: Known, now: datetime
) -> Joined:
    """Fill a declared upload, or find that it was filled with the same bytes before."""
    before = found.upload
    if found.whole:
        arrival.already = True
        return Joined(batch, [before])
    version = batch.version + 1
    if arrival.refusal or found.declared_sha256 not in {None, arrival.sha256}:
        after = refused(before, arrival.refusal or Refusal.of(DigestMismatchError()), version=version, now=now)
    else:
        assert place is not None
        after = accepted(before, arrival.size_bytes, arrival.sha256, place, version=version, now=now)
    found = replace(found, upload=after)
    known[before.id] = found
    if before.batch_id and before.ref is not None:
        known[before.batch_id, before.ref] = found
    grown = advance(reopen(batch), tally([after]) + -tally([before]), now=now)
    return Joined(grown, [after], changed=[after])


def _known(batch: Batch, arrival: Arrival, known: Mapping[UUID | tuple[UUID, str], Receiving]) -> Receiving | None:
    if arrival.fills:
        found = known.get(arrival.fills)
        return found if found and found.upload.batch_id == batch.id else None
    return known.get((batch.id, arrival.ref)) if arrival.ref is not None else None


def _is_other(found: Receiving, arrival: Arrival) -> bool:
    """Say whether the upload has other bytes, or was declared with another size."""
    upload = found.upload
    if found.whole:
        return (upload.sha256, upload.size_bytes) != (arrival.sha256, arrival.size_bytes)
    return upload.size_bytes is not None and upload.size_bytes != arrival.size_bytes and not found.refused


def _other(known: Upload) -> RefConflictError:
    detail = "There is another file already: other size or other bytes. Nothing was changed."
    return RefConflictError(detail, refs=[known.ref], upload_id=str(known.id))
