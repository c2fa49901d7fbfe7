import re
from email.message import Message
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.api.routes.content import disposition, parse_range
from app.domain.errors import InvalidFilenameError, RangeNotSatisfiableError
from app.domain.filename import parse_filename

HEADER = re.compile(r"attachment; filename=\"([^\"\\\r\n%]*)\"; filename\*=UTF-8''([A-Za-z0-9%._~-]*)")


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-", (0, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes=99-", (99, 100)),
        ("bytes=99-99", (99, 100)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=0-999999999999999999", (0, 100)),
        ("bytes=-1", (99, 100)),
        ("bytes=-100", (0, 100)),
        ("bytes=-101", (0, 100)),
        (" bytes=1-2 ", (1, 3)),
        ("bytes=007-010", (7, 11)),
    ],
)
def test_one_range_within_the_file(header: str, span: tuple[int, int]) -> None:
    assert parse_range(header, 100) == span


@pytest.mark.parametrize(
    "header", ["bytes=100-", "bytes=100-200", "bytes=999999999999999999-", "bytes=-0", "bytes=-00"]
)
def test_a_range_with_nothing_in_it_is_refused_and_the_size_is_told(header: str) -> None:
    with pytest.raises(RangeNotSatisfiableError) as refused:
        parse_range(header, 100)
    assert refused.value.facts == {"size_bytes": 100}


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1"])
def test_an_empty_file_has_no_ranges(header: str) -> None:
    with pytest.raises(RangeNotSatisfiableError):
        parse_range(header, 0)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=5-4",
        "bytes=5-0",
        "bytes=0-1,3-4",
        "bytes=0-1," * 100_000,
        "bytes=a-b",
        "bytes=0x1-0x2",
        "bytes=--1",
        "bytes=+1-2",
        "bytes=1 - 2",
        "bytes=\u0661-\u0662",
        "bytes=1\n-2",
        "items=0-1",
        "bytes=0-1\0",
        f"bytes={'9' * 5000}-",
        f"bytes=0-{'9' * 5000}",
    ],
    ids=lambda header: header[:20],
)
def test_the_whole_file_goes_to_who_asks_for_none_or_several_or_unclearly(header: str) -> None:
    assert parse_range(header, 100) is None


@given(st.text("bytes=-,0123456789 ", max_size=30), st.integers(0, 2**40))
@example("bytes=0-18446744073709551615", 1)
def test_any_range_is_within_the_file_refused_or_ignored(header: str, size: int) -> None:
    try:
        span = parse_range(header, size)
    except RangeNotSatisfiableError:
        return
    if span:
        assert 0 <= span[0] < span[1] <= size


@pytest.mark.parametrize(
    ("filename", "plain", "full"),
    [
        ("report.pdf", "report.pdf", "report.pdf"),
        ("a/b/c.jpg", "c.jpg", "c.jpg"),
        ("a\\b\\c.jpg", "c.jpg", "c.jpg"),
        ("my file (1).txt", "my file (1).txt", "my%20file%20%281%29.txt"),
        ('a"b.txt', "a_b.txt", "a%22b.txt"),
        ('"; filename="evil.html', "_; filename=_evil.html", "%22%3B%20filename%3D%22evil.html"),
        ("a%22b", "a_22b", "a%2522b"),
        ("x.txt\r\nSet-Cookie: a=b", "x.txt__Set-Cookie_ a=b", "x.txt%0D%0ASet-Cookie%3A%20a%3Db"),
        ("a\0b", "a_b", "a%00b"),
        ("über.txt", "_ber.txt", "%C3%BCber.txt"),
        ("写真.jpg", "__.jpg", "%E5%86%99%E7%9C%9F.jpg"),
        ("gpj.\N{RIGHT-TO-LEFT OVERRIDE}exe", "gpj._exe", "gpj.%E2%80%AEexe"),
        ("<b>.html", "_b_.html", "%3Cb%3E.html"),
        ("it's.txt", "it's.txt", "it%27s.txt"),
        ("", "", ""),
    ],
)
def test_the_name_of_an_attachment_in_ascii_and_in_full(filename: str, plain: str, full: str) -> None:
    assert disposition(filename) == f"attachment; filename=\"{plain}\"; filename*=UTF-8''{full}"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=100))
@example('";x="')
@example("\r\n\r\n<script>")
def test_no_name_breaks_out_of_its_header(filename: str) -> None:
    match = HEADER.fullmatch(disposition(filename))
    assert match
    assert match[1].isascii()
    assert unquote(match[2], errors="strict") == re.split(r"[\\/]", filename)[-1]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_a_standard_parser_reads_the_last_segment_of_every_name_that_is_taken(filename: str) -> None:
    try:
        parse_filename(filename.encode())
    except InvalidFilenameError:
        return
    header = Message()
    header["Content-Disposition"] = disposition(filename)
    assert header.get_content_disposition() == "attachment"
    assert header.get_filename() is not None
    extended = disposition(filename).split("filename*=UTF-8''")[1]
    assert unquote(extended) == re.split(r"[\\/]", filename)[-1]
