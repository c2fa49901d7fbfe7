from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.cursors import AFTER_NONE, BEFORE_ALL, Cursors
from app.domain.errors import InvalidCursorError

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
IDENTITY = UUID("018f0000-0000-7000-8000-000000000001")
SCOPE = "batches/owner/pending"
CURSORS = Cursors(b"a key of this service")
GOOD = CURSORS.make(SCOPE, MOMENT, IDENTITY)
URL_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(
    st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis wants it naive
    st.uuids(allow_nil=True),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_a_cursor_leads_back_to_its_place(moment: datetime, identity: UUID, scope: str) -> None:
    cursor = CURSORS.make(scope, moment, identity)
    assert CURSORS.read(scope, cursor) == (moment, identity)
    assert set(cursor) <= URL_SAFE


@pytest.mark.parametrize("place", [BEFORE_ALL, AFTER_NONE])
def test_both_ends_of_all_lists_are_places(place: tuple[datetime, UUID]) -> None:
    assert CURSORS.read(SCOPE, CURSORS.make(SCOPE, *place)) == place
    assert AFTER_NONE < (MOMENT, IDENTITY) < BEFORE_ALL


@pytest.mark.parametrize(
    "scope", ["", "batches/owner", "batches/owner/failed", SCOPE + "\0", "batches/another/pending"]
)
def test_a_cursor_of_another_list_is_refused(scope: str) -> None:
    with pytest.raises(InvalidCursorError):
        CURSORS.read(scope, GOOD)


def test_a_cursor_of_another_service_is_refused() -> None:
    with pytest.raises(InvalidCursorError):
        Cursors(b"another key").read(SCOPE, GOOD)


def test_a_cursor_cut_anywhere_is_refused() -> None:
    for end in range(len(GOOD)):
        with pytest.raises(InvalidCursorError):
            CURSORS.read(SCOPE, GOOD[:end])


def test_a_cursor_changed_anywhere_leads_nowhere_else() -> None:
    for place in range(len(GOOD)):
        forged = GOOD[:place] + ("A" if GOOD[place] != "A" else "B") + GOOD[place + 1 :]
        try:
            found = CURSORS.read(SCOPE, forged)
        except InvalidCursorError:
            continue
        assert found == (MOMENT, IDENTITY)  # the last digit holds bits that stand for nothing


@pytest.mark.parametrize(
    "cursor",
    ["", "=", "A", "é" * 54, "\N{GRINNING FACE}", "\0", "../..", "A" * 54, "A" * 10_000, GOOD + "A", GOOD + " ", "a b"],
)
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidCursorError):
        CURSORS.read(SCOPE, cursor)


@given(st.text(max_size=80))
def test_any_text_is_refused_and_nothing_worse(cursor: str) -> None:
    with pytest.raises(InvalidCursorError):
        CURSORS.read(SCOPE, cursor)


def test_places_a_microsecond_apart_have_cursors_of_their_own() -> None:
    assert CURSORS.make(SCOPE, MOMENT + timedelta(microseconds=1), IDENTITY) != GOOD
