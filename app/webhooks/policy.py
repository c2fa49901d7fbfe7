"""What becomes of a message after an attempt: pure, with the clock and the randomness passed in."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

from app.domain.webhook import DeliveryStatus

_AT_ONCE: Final = timedelta(0)
_MOST_DIGITS: Final = 9
_PATIENT: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


@dataclass(frozen=True, slots=True)
class Answer:
    """What one attempt brought: a status code, or an error in its place."""

    status_code: int | None = None
    error: str | None = None
    retry_after: str | None = None
    """The receiver's `Retry-After`, as it was sent."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where the message stands then."""

    status: DeliveryStatus
    wait: timedelta = _AT_ONCE
    """How long until the next attempt, where it is `pending`."""
    reason: str | None = None
    """Why it was given up."""
    gone: bool = False
    """Whether the receiver wants nothing more, ever."""


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """After the first failure `first`, then twice as long each time, up to `most`; given up after `span`.

    Each wait is between half and all of that, by chance, so that those who failed together do not return together.
    """

    span: timedelta
    first: timedelta = timedelta(seconds=5)
    most: timedelta = timedelta(hours=1)
    most_asked: timedelta = timedelta(hours=4)
    """As long as this a receiver may have us wait."""

    def judge(
        self, answer: Answer, *, failures: int, begun_at: datetime, now: datetime, chance: Callable[[], float]
    ) -> Verdict:
        """Say what follows from an answer; `failures` is how many attempts failed before, `chance` is in [0, 1)."""
        status = answer.status_code
        if status is not None and HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return Verdict(DeliveryStatus.DELIVERED)
        what = answer.error if status is None else f"the receiver answered {status}"
        if status == HTTPStatus.GONE:
            return Verdict(DeliveryStatus.GIVEN_UP, reason=f"{what}: it wants no more messages", gone=True)
        wait = self.backoff(failures, chance())
        if status in _PATIENT and answer.retry_after:
            wait = max(wait, min(parse_retry_after(answer.retry_after, now), self.most_asked))
        if now + wait > begun_at + self.span:
            return Verdict(DeliveryStatus.GIVEN_UP, reason=f"tried for {_spoken(self.span)}; last: {what}")
        return Verdict(DeliveryStatus.PENDING, wait)

    def backoff(self, failures: int, chance: float) -> timedelta:
        """Return the wait after one more failure than `failures`."""
        longest = min(self.most, self.first * (1 << min(failures, 30)))
        return longest * (0.5 + chance / 2)


def parse_retry_after(text: str, now: datetime) -> timedelta:
    """Return how long that is, in seconds or until a date (RFC 9110 §10.2.3); nothing for what is neither."""
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return timedelta(seconds=int(text[:_MOST_DIGITS]))
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # a number in it may be of any length
        return _AT_ONCE
    return max(_AT_ONCE, (until if until.tzinfo else until.replace(tzinfo=UTC)) - now)


def _spoken(span: timedelta) -> str:
    hours = span / timedelta(hours=1)
    return f"{hours:g} hours" if hours >= 1 else f"{span.total_seconds():g} seconds"
