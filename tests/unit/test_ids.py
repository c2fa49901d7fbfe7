import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.ids import LOCAL_OWNER, UuidSeven, made_at, new_id, utc_now

NEAR = timedelta(milliseconds=50)


def test_new_ids_are_uuid_7_in_the_order_they_were_made() -> None:
    ids = [new_id() for _ in range(20_000)]
    assert {(made.version, made.variant) for made in ids} == {(7, RFC_4122)}
    assert ids == sorted(set(ids))


def test_ids_made_at_full_speed_do_not_run_ahead_of_the_clock() -> None:
    before = utc_now()
    made = [made_at(new_id()) for _ in range(5000)]
    assert before - NEAR <= min(made)
    assert max(made) <= utc_now() + NEAR


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-7)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("restless")
def test_threads_share_the_ids_and_none_is_of_the_same_moment() -> None:
    make = UuidSeven(lambda: 1_800_000_000_000_000_000)
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: [make() for _ in range(30_000)], range(4)))
    assert all(ids == sorted(ids) for ids in made)
    assert len({one.int >> 64 for ids in made for one in ids}) == 120_000


def test_makers_of_several_processes_agree_on_the_order_to_the_microsecond() -> None:
    start = 1_800_000_000_000_000_000
    ids = [UuidSeven(lambda: start + nanoseconds)() for nanoseconds in range(0, 2_000_000, 1000)]  # noqa: B023 - at once
    assert ids == sorted(ids)


def test_the_random_part_of_each_id_is_its_own() -> None:
    make = UuidSeven()
    assert len({make().int & (2**62 - 1) for _ in range(2000)}) == 2000


@given(st.lists(st.integers(0, 5_000_000), min_size=1, max_size=50))
def test_ids_rise_and_keep_to_the_clock_however_that_goes(times: list[int]) -> None:
    start = 1_800_000_000_000_000_000
    clock = iter([start + time for time in times])
    make = UuidSeven(lambda: next(clock))
    ids = [make() for _ in times]
    assert ids == sorted(set(ids))
    latest = datetime.fromtimestamp((start + max(times)) / 10**9, UTC)
    assert made_at(ids[-1]) <= latest + timedelta(milliseconds=1)


def test_an_id_says_when_it_was_made() -> None:
    moment = datetime(2026, 7, 1, 12, 30, 15, 123_000, tzinfo=UTC)
    for microseconds in (0, 1, 500, 999):
        nanoseconds = int(moment.timestamp()) * 10**9 + 123_000_000 + microseconds * 1000
        assert made_at(UuidSeven(lambda: nanoseconds)()) == moment  # noqa: B023 - called at once


def test_ids_go_on_rising_while_the_clock_goes_back() -> None:
    clock = iter([2_000_000_000_000, 1_000_000_000_000, 1_500_000_000_000, 2_000_001_000_000])
    make = UuidSeven(lambda: next(clock))
    ids = [make() for _ in range(4)]
    assert ids == sorted(set(ids))


def test_two_makers_at_the_same_moment_make_different_ids() -> None:
    makers = [UuidSeven(lambda: 1_800_000_000_000_000_000) for _ in range(2)]
    ids = {make() for make in makers for _ in range(1000)}
    assert len(ids) == 2000


def test_the_time_in_the_example_of_the_standard() -> None:
    assert made_at(UUID("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")) == datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)


def test_the_time_is_given_to_the_millisecond() -> None:
    one = UUID(int=(1_645_557_742_001 << 80) | (7 << 76) | (2 << 62))
    assert made_at(one) == datetime(2022, 2, 22, 19, 22, 22, 1000, tzinfo=UTC)


def test_what_only_looks_like_an_id_was_made_at_some_time_all_the_same() -> None:
    assert made_at(UUID(int=2**128 - 1)) == datetime(9999, 12, 31, tzinfo=UTC)
    assert made_at(UUID(int=0)) == datetime(1970, 1, 1, tzinfo=UTC)


def test_the_clock_names_its_zone() -> None:
    assert utc_now().utcoffset() == timedelta(0)


def test_the_local_owner_is_an_id_that_is_never_given_out() -> None:
    assert LOCAL_OWNER.version == 8
