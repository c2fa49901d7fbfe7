"""The waits between tries, and the end of them."""

from datetime import timedelta
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.retry import RetryPolicy

POLICY: Final = RetryPolicy(max_attempts=4, first=timedelta(seconds=2), longest=timedelta(seconds=30))
chances = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(("attempts", "over"), [(1, False), (3, False), (4, True), (5, True)])
def test_the_last_attempt_allowed_is_the_last(attempts: int, over: bool) -> None:  # noqa: FBT001 - a column of the table
    assert POLICY.gives_up(attempts) is over


@pytest.mark.parametrize(("attempts", "ceiling"), [(1, 2), (2, 4), (3, 8), (4, 16), (5, 30), (6, 30), (10**6, 30)])
def test_the_ceiling_doubles_up_to_the_longest(attempts: int, ceiling: float) -> None:
    assert POLICY.delay(attempts, 0) == timedelta(0)
    assert POLICY.delay(attempts, 0.5) == timedelta(seconds=ceiling / 2)


@given(attempts=st.integers(1, 10**9), chance=chances)
def test_a_wait_is_anywhere_below_its_ceiling(attempts: int, chance: float) -> None:
    wait = POLICY.delay(attempts, chance)
    assert timedelta(0) <= wait <= POLICY.longest
    assert wait == POLICY.delay(attempts, chance), "pure"


def test_what_failed_together_comes_back_at_different_times() -> None:
    waits = {POLICY.delay(3, number / 100) for number in range(100)}
    assert len(waits) == 100
    assert max(waits) > timedelta(seconds=7.9)


def test_no_wait_at_all_can_be_asked_for() -> None:
    assert RetryPolicy(4, timedelta(0), timedelta(0)).delay(9, 0.99) == timedelta(0)
