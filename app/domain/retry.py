"""When an upload is tried again: exponential backoff with full jitter, and an end to it. Pure."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

_MOST_DOUBLINGS: Final = 60


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often an upload is tried, and how long to wait in between."""

    max_attempts: int
    """Attempts of one round; an explicit retry begins another round."""
    first: timedelta
    """The longest wait behind the first attempt; it doubles with each further one."""
    longest: timedelta
    """No wait is longer."""

    def gives_up(self, attempts: int) -> bool:
        """Say whether so many attempts of a round are all that it gets."""
        return attempts >= self.max_attempts

    def delay(self, attempts: int, chance: float) -> timedelta:
        """Return how long to wait behind attempt number `attempts`, from 1 on; `chance` is in [0, 1).

        Any wait up to the ceiling is as likely as any other: what failed together does not come back together.
        """
        doublings = min(max(attempts - 1, 0), _MOST_DOUBLINGS)
        ceiling = min(self.first.total_seconds() * 2.0**doublings, self.longest.total_seconds())
        return timedelta(seconds=ceiling * chance)
