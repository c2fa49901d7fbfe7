"""How an attempt at an upload ended, as the processing side says it to the pipeline."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from app.domain.upload import Refusal, Upload


@dataclass(frozen=True, slots=True)
class Found:
    """What the processors found out about a file; what none of them spoke of is None or empty."""

    detected_type: str | None = None
    width: int | None = None
    height: int | None = None
    metadata: dict[str, object] = field(default_factory=dict)
    """By the name of the processor; merged into the upload's metadata."""
    thumbnail: bytes | None = None
    """WebP; not stored yet."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended: `error` is None exactly where it succeeded."""

    upload: Upload
    """As it was claimed; its `attempts` is the number of the attempt."""
    found: Found | None = None
    error: Refusal | None = None
    passing: bool = False
    """Whether the error may pass: worth another attempt later, up to `max_attempts`."""
    blameless: bool = False
    """The bytes were out of reach: no fault of the file, so the attempt does not count."""


class Workshop(Protocol):
    """Whoever looks into files."""

    def process(self, uploads: Sequence[Upload]) -> AsyncIterator[Outcome]:
        """Yield one outcome for each upload, each as soon as it is known, in any order.

        Closing the iterator early gives up the rest: whatever still works on them is ended. Never raises for what a
        file or a child process does.
        """
