"""How far a push has come, in plain numbers; and who is told of it."""

from dataclasses import dataclass, field
from typing import Protocol

from app.client.files import Failure, Skipped
from app.client.remote import Json


@dataclass(slots=True)
class Count:
    """Files, and their bytes."""

    files: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """Count a file."""
        self.files += 1
        self.bytes += size


@dataclass(slots=True)
class Progress:
    """The numbers of one push. Grows with nothing but the big files under way."""

    surveyed: Count = field(default_factory=Count)
    """What there is, as far as we have looked."""
    read: Count = field(default_factory=Count)
    """What was hashed."""
    sent: Count = field(default_factory=Count)
    """What was sent in this run. Bytes are those of bodies, the ones included that had to be sent again."""
    had: Count = field(default_factory=Count)
    """What the service had already, and was not sent."""
    arrived_bytes: int = 0
    """Bytes of files that the service has, in whole or in part."""
    sending_seconds: float | None = None
    """How long it took until all was sent; None until then."""
    failures: int = 0
    skipped: int = 0
    big: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Big files on their way: how many bytes of how many."""
    batch: Json | None = None
    """As it was last seen."""


class View(Protocol):
    """Whoever shows it. Called on the event loop; none of it waits."""

    def opened(self, batch_id: str, *, again: bool) -> None:
        """Say that it goes into that batch, which an earlier run may have begun."""

    def failed(self, failure: Failure) -> None:
        """Say that a file is not in the batch, or was not processed."""

    def skipped(self, skipped: Skipped) -> None:
        """Say that something was left out."""

    def moved(self, progress: Progress) -> None:
        """Show where it stands now."""

    def interrupted(self) -> None:
        """Leave the terminal as it was found."""

    def ended(self, progress: Progress, *, code: int, seconds: float, why: str | None) -> None:
        """Sum up; `why` says what kept it from its end."""
