from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import InvalidEventIdError
from app.progress.position import Position, parse_position

UPLOAD = UUID("018f0000-0000-7000-8000-00000000000a")
versions = st.integers(min_value=0, max_value=2**63 - 1)


@given(versions, st.uuids(allow_nil=True) | st.none())
def test_an_event_id_leads_back_to_its_place(version: int, upload_id: UUID | None) -> None:
    position = Position(version, upload_id) if upload_id else Position(version)
    assert parse_position(str(position)) == position


def test_a_version_that_is_known_whole_is_a_number_and_lies_behind_its_uploads() -> None:
    assert str(Position(7)) == "7"
    assert str(Position(7, UPLOAD)) == f"7:{UPLOAD}"
    assert Position(6) < Position(7, UUID(int=0)) < Position(7, UPLOAD) < Position(7) < Position(8, UUID(int=0))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x",
        "-1",
        "+1",
        "1.0",
        "1 ",
        "1:",
        ":1",
        f":{UPLOAD}",
        f"1:{UPLOAD}x",
        f"1:{UPLOAD.hex}",
        f"1:{str(UPLOAD).upper()}",
        f"1:{UPLOAD}:2",
        "9223372036854775808",
        "1" * 40,
        "٣",
        "1\n",
        "0x1",
        "null",
    ],
)
def test_what_is_no_event_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidEventIdError):
        parse_position(text)
