"""What becomes of a message after each kind of answer."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.webhook import DeliveryStatus
from app.webhooks.policy import Answer, DeliveryPolicy, parse_retry_after
from tests.support.values import NOW

DAY = timedelta(days=1)
POLICY = DeliveryPolicy(DAY)
SECOND = timedelta(seconds=1)


def waits(chance: float) -> list[timedelta]:
    """The waits of a message whose every attempt fails at once, until it is given up."""
    now, failures, found = NOW, 0, list[timedelta]()
    while True:
        verdict = POLICY.judge(Answer(500), failures=failures, begun_at=NOW, now=now, chance=lambda: chance)
        if verdict.status is DeliveryStatus.GIVEN_UP:
            return found
        assert verdict.status is DeliveryStatus.PENDING
        found.append(verdict.wait)
        now, failures = now + verdict.wait, failures + 1


def test_waits_double_from_five_seconds_to_an_hour_for_a_day() -> None:
    longest = waits(0.999_999_999)
    assert [round(wait.total_seconds()) for wait in longest[:11]] == [
        5,
        10,
        20,
        40,
        80,
        160,
        320,
        640,
        1280,
        2560,
        3600,
    ]
    assert {round(wait.total_seconds()) for wait in longest[10:]} == {3600}
    assert DAY - timedelta(hours=1) < sum(longest, timedelta(0)) <= DAY
    shortest = waits(0)
    assert [round(wait / SECOND, 1) for wait in shortest[:3]] == [2.5, 5.0, 10.0]
    assert DAY - timedelta(hours=1) < sum(shortest, timedelta(0)) <= DAY
    assert len(longest) < 50
    assert len(shortest) < 60


@given(st.integers(min_value=0, max_value=10**9), st.floats(min_value=0, max_value=1, exclude_max=True))
def test_a_wait_is_between_half_of_it_and_all(failures: int, chance: float) -> None:
    longest = min(timedelta(hours=1), timedelta(seconds=5) * 2 ** min(failures, 20))
    assert longest / 2 <= POLICY.backoff(failures, chance) <= longest


@pytest.mark.parametrize("status", [200, 201, 202, 204, 226, 299])
def test_any_2xx_is_delivered(status: int) -> None:
    verdict = POLICY.judge(Answer(status), failures=9, begun_at=NOW - 9 * DAY, now=NOW, chance=float)
    assert verdict.status is DeliveryStatus.DELIVERED


@pytest.mark.parametrize(
    "status", [100, 101, 199, 300, 301, 304, 307, 400, 401, 404, 409, 422, 500, 502, 504, 599, 999]
)
def test_every_other_status_but_410_is_tried_again(status: int) -> None:
    verdict = POLICY.judge(Answer(status, retry_after="7200"), failures=0, begun_at=NOW, now=NOW, chance=lambda: 0.5)
    assert (verdict.status, verdict.wait) == (DeliveryStatus.PENDING, 3.75 * SECOND)


def test_410_is_the_end() -> None:
    verdict = POLICY.judge(Answer(410), failures=0, begun_at=NOW, now=NOW, chance=float)
    assert (verdict.status, verdict.gone) == (DeliveryStatus.GIVEN_UP, True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [(None, 5), ("0", 5), ("3", 5), ("60", 60), ("14400", 14400), ("14401", 14400), ("9" * 40, 14400), ("later", 5)],
)
def test_retry_after_makes_a_wait_longer_and_never_shorter(status: int, retry_after: str | None, seconds: int) -> None:
    verdict = POLICY.judge(
        Answer(status, retry_after=retry_after), failures=0, begun_at=NOW, now=NOW, chance=lambda: 1.0
    )
    assert verdict.wait == seconds * SECOND


def test_the_last_reason_is_kept() -> None:
    def reason(answer: Answer, policy: DeliveryPolicy = POLICY) -> str | None:
        return policy.judge(answer, failures=3, begun_at=NOW - policy.span, now=NOW, chance=float).reason

    assert reason(Answer(502)) == "tried for 24 hours; last: the receiver answered 502"
    assert (
        reason(Answer(error="no answer within 15 seconds")) == "tried for 24 hours; last: no answer within 15 seconds"
    )
    assert reason(Answer(404), DeliveryPolicy(90 * SECOND)) == "tried for 90 seconds; last: the receiver answered 404"


def test_a_message_that_lay_longer_than_a_day_is_tried_once() -> None:
    verdict = POLICY.judge(Answer(204), failures=0, begun_at=NOW - 3 * DAY, now=NOW, chance=float)
    assert verdict.status is DeliveryStatus.DELIVERED


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("Thu, 01 Jan 2026 12:01:30 GMT", 90),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0),
        ("Thu, 01 Jan 2026 12:01:30 -0000", 90),
        ("-5", 0),
        ("1.5", 0),
        ("", 0),
        ("\u0663", 0),
        ("never", 0),
        ("Thu, 99 Jan 2026 12:01:30 GMT", 0),
        ("Thu, 01 Jan 99999 12:01:30 GMT", 0),
        ("Thu, 01 Jan 99999999999 12:01:30 GMT", 0),
        ("Thu, 01 Jan 2026 99999999999999999999:01:30 GMT", 0),
        ("Thu, 01 Jan 2026 12:01:30 +99999999999999999999", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: int) -> None:
    assert parse_retry_after(text, NOW) == seconds * SECOND


@given(st.text())
def test_no_retry_after_breaks_anything(text: str) -> None:
    assert parse_retry_after(text, NOW) >= timedelta(0)
