import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import InvalidFilenameError
from app.domain.filename import parse_filename, printable

CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "report.pdf",
        "a/b/c.jpg",
        "a\\b\\c.jpg",
        "no extension",
        ".hidden",
        "..hidden",
        "trailing.",
        "...",
        "a..b/c..d",
        "C:",
        "über.txt",
        "写真.jpg",
        "e\N{COMBINING ACUTE ACCENT}\N{COMBINING TILDE}.txt",
        "\N{FAMILY}\N{ZERO WIDTH JOINER}\N{GRINNING FACE}.png",
        "gpj.\N{RIGHT-TO-LEFT OVERRIDE}exe",
        '"quoted" <b>&amp;</b> %22 $(id) `x` ;.txt',
        "\N{NO-BREAK SPACE}",
        "x" * 255,
        "é" * 127,
    ],
)
def test_a_plain_relative_name_is_kept_as_it_is(name: str) -> None:
    assert parse_filename(name.encode()) == name


@pytest.mark.parametrize("raw", [None, b""])
def test_a_file_without_a_name_is_refused(raw: bytes | None) -> None:
    with pytest.raises(InvalidFilenameError, match="no name"):
        parse_filename(raw)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "..",
        ".",
        "./a",
        "a/../b",
        "a/..",
        "a/.",
        "..\\a",
        "a\\..\\b",
        "a/..\\b",
        "/etc/passwd",
        "//host/share",
        "\\windows",
        "\\\\host\\share",
        "C:\\x",
        "c:/x",
        "a//b",
        "a/",
        "a\\",
        "/",
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(InvalidFilenameError, match="relative"):
        parse_filename(name.encode())


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: f"{ord(control):#04x}")
def test_a_control_character_anywhere_is_refused(control: str) -> None:
    for name in (control, f"a{control}b", f"a/{control}", f"a{control}"):
        with pytest.raises(InvalidFilenameError, match="control character"):
            parse_filename(name.encode())


@pytest.mark.parametrize("raw", [b"\xff", b"a\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"caf\xe9.txt"])
def test_a_name_that_is_not_utf_8_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidFilenameError, match="UTF-8"):
        parse_filename(raw)


@pytest.mark.parametrize(("name", "size"), [("x" * 256, 256), ("é" * 128, 256), ("\N{GRINNING FACE}" * 64, 256)])
def test_a_name_is_measured_in_bytes(name: str, size: int) -> None:
    with pytest.raises(InvalidFilenameError, match=f"{size} bytes long; the most is 255"):
        parse_filename(name.encode())


@given(st.binary(max_size=300))
def test_any_bytes_are_kept_unchanged_or_refused(raw: bytes) -> None:
    try:
        name = parse_filename(raw)
    except InvalidFilenameError:
        return
    assert name.encode() == raw
    assert not set(name) & set(CONTROLS)
    assert not {"", ".", ".."} & set(name.replace("\\", "/").split("/"))


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (None, ""),
        (b"", ""),
        (b"../../etc/passwd", "../../etc/passwd"),
        (b"a\0b\r\nc", "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}c"),
        (b"caf\xe9.txt", "caf\N{REPLACEMENT CHARACTER}.txt"),
        (b"x" * 4000, "x" * 255),
        ("é".encode() * 400, "é" * 127),
    ],
)
def test_what_is_shown_of_a_refused_name(raw: bytes | None, shown: str) -> None:
    assert printable(raw) == shown


@given(st.binary(max_size=700))
def test_what_is_shown_is_short_and_without_control_characters(raw: bytes) -> None:
    shown = printable(raw)
    assert len(shown.encode()) <= 255
    assert not set(shown) & set(CONTROLS)
