"""What an owner holds of the service, and how much of that is allowed. Pure.

An upload holds the bytes that are stored for it, and while it is `receiving` with a declared size, all that are to
come. One that was refused, or cancelled before it was whole, holds nothing. The same bytes twice count twice.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final

from app.domain.errors import QuotaExceededError
from app.domain.upload import Upload, UploadStatus

UNLIMITED: Final = 2**63 - 1
"""What stands for no limit where a service has one for everybody else."""


@dataclass(frozen=True, slots=True)
class Holding:
    """How much is held, or by how much that changes."""

    bytes: int = 0
    files: int = 0
    """Uploads that hold bytes, if only none of them, or wait for theirs."""
    open_batches: int = 0
    """Batches that have not come to their end."""
    open_uploads: int = 0
    """Uploads whose bytes are still to come."""

    def __add__(self, other: "Holding") -> "Holding":
        """Return both as one."""
        return Holding(
            self.bytes + other.bytes,
            self.files + other.files,
            self.open_batches + other.open_batches,
            self.open_uploads + other.open_uploads,
        )

    def __neg__(self) -> "Holding":
        """Return the change that undoes this one."""
        return Holding(-self.bytes, -self.files, -self.open_batches, -self.open_uploads)


@dataclass(frozen=True, slots=True)
class Quota:
    """The most that an owner may hold; None where there is no limit."""

    bytes: int | None = None
    files: int | None = None
    open_batches: int | None = None
    open_uploads: int | None = None


RESOURCES: Final = tuple(field.name for field in fields(Holding))
_NAMES: Final = {
    "bytes": "bytes",
    "files": "files",
    "open_batches": "batches that are not finished",
    "open_uploads": "uploads whose bytes are still to come",
}


@dataclass(frozen=True, slots=True)
class Standing:
    """What an owner holds, and may hold."""

    used: Holding
    quota: Quota

    def left(self, resource: str) -> int:
        """Return how much more of it may be held; less than 0 where a quota was lowered since."""
        most: int | None = getattr(self.quota, resource)
        used: int = getattr(self.used, resource)
        return UNLIMITED if most is None else most - used

    def has_room(self, more: Holding) -> bool:
        """Say whether `with_more` would allow it."""
        return not any(0 < getattr(more, resource) > self.left(resource) for resource in RESOURCES)

    def with_more(self, more: Holding) -> "Standing":
        """Return how things stand with that as well. Raises QuotaExceededError where it may not be.

        What grows nothing is always allowed.
        """
        for resource in RESOURCES:
            if 0 < getattr(more, resource) > self.left(resource):
                raise self._exceeded(resource, getattr(more, resource))
        return Standing(self.used + more, self.quota)

    def _exceeded(self, resource: str, more: int) -> QuotaExceededError:
        most, used = getattr(self.quota, resource), getattr(self.used, resource)
        return QuotaExceededError(
            f"Your quota is {most} {_NAMES[resource]}. You have {used}, and this would be {more} more."
            " Delete something, or ask for a higher quota.",
            quota=resource,
            limit=most,
            used=used,
        )


def held_by(uploads: Iterable[Upload]) -> Holding:
    """Return what uploads hold, all together."""
    held = files = receiving = 0
    for upload in uploads:
        if upload.status is UploadStatus.RECEIVING:
            held += upload.received_bytes if upload.size_bytes is None else upload.size_bytes
            files += 1
            receiving += 1
        elif upload.object_id is not None:
            held += upload.received_bytes
            files += 1
    return Holding(held, files, 0, receiving)
