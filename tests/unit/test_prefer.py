import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.prefer import wait_seconds


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        (["wait=10"], 10),
        (["wait=0"], 0),
        (["wait=60"], 60),
        (["wait=61"], 60),
        (["wait=999999999"], 60),
        (['wait="10"'], 10),
        (["Wait = 10"], 10),
        (["WAIT=7"], 7),
        (["respond-async, wait=10"], 10),
        (["wait=10, wait=20"], 10),
        (["respond-async", "wait=5"], 5),
        (["handling=lenient; strict=1, wait=5"], 5),
        (['note="a, wait=3", wait=4'], 4),
        (['note="a\\", wait=3", wait=4'], 4),
        (["wait=5; foo; bar=2"], 5),
        (["return=minimal,wait=5,respond-async"], 5),
    ],
)
def test_a_wait_is_found_among_the_preferences(fields: list[str], seconds: int) -> None:
    assert wait_seconds(fields) == seconds


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [""],
        ["wait"],
        ["wait="],
        ["wait=-1"],
        ["wait=1.5"],
        ["wait=ten"],
        ["wait=1e1"],
        ["wait=٣"],
        ["wait=99999999999"],
        ["waiting=5"],
        ["await=5"],
        ["return=minimal"],
        ["wait: 5"],
        ["wait=5 seconds"],
        ['note="wait=5'],
        ["wait=x, wait=5"],
    ],
)
def test_what_is_no_wait_is_passed_over(fields: list[str]) -> None:
    assert wait_seconds(fields) is None


@given(st.lists(st.text(max_size=60), max_size=3))
def test_any_text_gives_a_number_within_the_bounds_or_none(fields: list[str]) -> None:
    found = wait_seconds(fields)
    assert found is None or 0 <= found <= 60


@pytest.mark.timeout(5)
def test_no_text_takes_long() -> None:
    for field in ("a;" * 30_000, 'a="' + "\\" * 60_000, "a; " * 20_000 + "=", ";" * 60_000, "wait " * 12_000):
        assert wait_seconds([field]) is None
    for repeated in (" ; ", ";  ", " ", "; a ", "; a = ", "; a = b ", '; a = "b" ', "a , ", "a ; , "):
        for end in ("(", '"', "="):
            assert wait_seconds(["a" + repeated * (30_000 // len(repeated)) + end]) is None
