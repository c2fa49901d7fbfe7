import pytest

from app.api.multipart import boundary_of
from app.domain.errors import MalformedMultipartError, UnsupportedMediaTypeError
from tests.support.receiving import message, part
from tests.unit.conftest import Take

GOOD = part(b"kept", filename="kept.txt")
MIB = 1 << 20


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ("multipart/form-data;boundary=abc", b"abc"),
        ("Multipart/Form-Data; Charset=utf-8; Boundary=abc", b"abc"),
        ('multipart/form-data; boundary="a b"', b"a b"),
        ("multipart/form-data; boundary=----WebKitFormBoundaryABC; x=y", b"----WebKitFormBoundaryABC"),
        ("multipart/form-data; boundary=a'()+_,-./:=?b", b"a'()+_,-./:=?b"),
        ("multipart/form-data; boundary=" + "x" * 70, b"x" * 70),
    ],
)
def test_the_boundary_is_what_the_content_type_names(content_type: str, boundary: bytes) -> None:
    assert boundary_of(content_type, None) == boundary


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data;",
        "multipart/form-data; boundary",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; charset=utf-8",
        "multipart/form-data; boundary*=utf-8''abc",
        "multipart/form-data; boundary=" + "x" * 71,
        "multipart/form-data; boundary=" + "x" * 5000,
    ],
)
def test_a_boundary_missing_empty_or_too_long_is_refused(content_type: str) -> None:
    with pytest.raises(MalformedMultipartError, match="1 to 70"):
        boundary_of(content_type, None)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        ";",
        "; boundary=abc",
        "application/json",
        "multipart/mixed; boundary=abc",
        "multipart/form-data-not; boundary=abc",
        "application/x-www-form-urlencoded",
    ],
)
def test_another_media_type_is_refused(content_type: str | None) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="form-data"):
        boundary_of(content_type, None)


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "GZIP"])
def test_an_encoded_body_is_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="Content-Encoding"):
        boundary_of("multipart/form-data; boundary=abc", encoding)


@pytest.mark.parametrize("encoding", [None, "", "identity", " Identity "])
def test_a_body_as_it_is_may_say_so(encoding: str | None) -> None:
    assert boundary_of("multipart/form-data; boundary=abc", encoding) == b"abc"


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"\r\nno headers", id="no headers"),
        pytest.param(b"Content-Type: image/png\r\n\r\nx", id="no disposition"),
        pytest.param(part(disposition=b""), id="empty disposition"),
        pytest.param(part(disposition=b"form-data"), id="no name"),
        pytest.param(part(disposition=b'form-data; filename="a"'), id="filename only"),
        pytest.param(part(disposition=b'attachment; name="f"; filename="a"'), id="attachment"),
        pytest.param(part(disposition=b"form-data; name=\"f\"; filename*=UTF-8''a"), id="extended filename only"),
        pytest.param(part(disposition=b'form-data; name="f"; filename="a"; filename="b"'), id="two filenames"),
        pytest.param(
            part(disposition=b'form-data; name="f"; filename="a"; FILENAME=b'), id="two filenames in two cases"
        ),
        pytest.param(part(disposition=b'form-data; name="f"; name="g"; filename="a"'), id="two names"),
        pytest.param(part(disposition=b'form-data; name="f"; filename="a'), id="quote never closed"),
        pytest.param(part(disposition=b'form-data; name="f"; filename="a"b"'), id="quote within quotes"),
        pytest.param(part(disposition=b'form-data; name="f"; filename="a" junk'), id="junk behind"),
        pytest.param(part(disposition=b'form-data name="f"'), id="no semicolon"),
        pytest.param(part(disposition=b'form-data; name="f"\nX: y'), id="bare LF between headers"),
        pytest.param(part(disposition=b'form-data;\nname="f"; filename="a"'), id="bare LF before a name"),
        pytest.param(part(disposition=b'form-data; name="f";\n filename="a"'), id="bare LF before a filename"),
        pytest.param(part(disposition=b'form-data; name="f"; filename="a"\n'), id="bare LF at the end"),
        pytest.param(part(disposition=b'\nform-data; name="f"; filename="a"'), id="bare LF at the start"),
        pytest.param(GOOD.replace(b"\r\n\r\n", b"\n\n"), id="bare LF behind the headers"),
        pytest.param(part(filename="a", headers=b"Content-Type: a/b\r\nContent-Type: c/d\r\n"), id="header twice"),
        pytest.param(part(filename="a", headers=b"X-Long: " + b"x" * 4096 + b"\r\n"), id="header too long"),
        pytest.param(part(filename="a", headers=b"X" * 4097 + b": x\r\n"), id="header name too long"),
        pytest.param(part(filename="x" * 4097), id="filename too long for a header"),
        pytest.param(part(filename="a", headers=b"".join(b"X-%d: y\r\n" % n for n in range(8))), id="9 headers"),
        pytest.param(part(filename="a", headers=b"".join(b"X-%d: y\r\n" % n for n in range(100))), id="100 headers"),
        pytest.param(part(filename="a", headers=b"X Y: z\r\n"), id="space in a header name"),
        pytest.param(part(filename="a", headers=b": z\r\n"), id="no header name"),
        pytest.param(part(filename="a", headers=b"no colon\r\n"), id="no colon"),
        pytest.param(part(filename="a", headers=b"X: y\r\n folded\r\n"), id="folded header"),
        pytest.param(part(filename="a", headers=b"X\0: y\r\n"), id="NUL in a header name"),
    ],
)
def test_a_malformed_part_ends_the_body_and_what_was_whole_is_kept(taken: Take, bad: bytes) -> None:
    outcome = taken(message(GOOD, bad, part(filename="never")))
    assert outcome.error == "malformed-multipart"
    assert outcome.contents == [b"kept"]


def test_as_many_and_as_long_headers_as_allowed_are_taken(taken: Take) -> None:
    long = b"X-Long: " + b"x" * (4096 - len("X-Long: ")) + b"\r\n"
    assert taken(message(part(filename="a", headers=long * 1))).names == ["a"]
    many = b"".join(b"X-%d: y\r\n" % number for number in range(7))
    assert taken(message(part(filename="a", headers=many))).names == ["a"]


@pytest.mark.parametrize("encoding", [b"base64", b"BASE64", b"quoted-printable", b"x-gzip", b"binary, base64", b""])
def test_an_encoded_part_is_refused_and_never_decoded(taken: Take, encoding: bytes) -> None:
    headers = b"Content-Transfer-Encoding: " + encoding + b"\r\n"
    outcome = taken(message(GOOD, part(b"YQ==", filename="a", headers=headers)))
    assert (outcome.error, outcome.contents) == ("unsupported-media-type", [b"kept"])


@pytest.mark.parametrize(
    "preamble",
    [
        b"junk",
        b"junk\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"-",
        b"\r\n\n",
        b"--another-boundary\r\n",
        b"x" * MIB + b"\r\n",
        b"\r\n" * MIB,
        b"--the-boundar\r\n",
    ],
    ids=lambda preamble: repr(preamble[:20]),
)
def test_bytes_before_the_first_boundary_are_refused(taken: Take, preamble: bytes) -> None:
    outcome = taken(preamble + message(GOOD))
    assert (outcome.error, outcome.begun) == ("malformed-multipart", 0)


def test_the_line_break_that_belongs_to_the_first_boundary_is_taken(taken: Take) -> None:
    outcome = taken(b"\r\n" + message(GOOD))
    assert (outcome.error, outcome.contents) == (None, [b"kept"])


@pytest.mark.parametrize(
    "epilogue",
    [b"x", b"\n", b"\rx", b"\r\nx", b"\r\n\r\n", b"--", b" \r\n", b"\r\n" + b"x" * MIB, message(GOOD)],
    ids=lambda epilogue: repr(epilogue[:20]),
)
def test_bytes_behind_the_last_boundary_are_refused_and_the_files_kept(taken: Take, epilogue: bytes) -> None:
    outcome = taken(message(GOOD, end=epilogue))
    assert (outcome.error, outcome.contents) == ("malformed-multipart", [b"kept"])


@pytest.mark.parametrize("end", [b"", b"\r\n"])
def test_a_body_may_end_with_or_without_a_line_break(taken: Take, end: bytes) -> None:
    outcome = taken(message(GOOD, end=end))
    assert (outcome.error, outcome.contents) == (None, [b"kept"])


def test_bare_line_feeds_for_all_line_ends_are_refused(taken: Take) -> None:
    outcome = taken(message(GOOD).replace(b"\r\n", b"\n"))
    assert (outcome.error, outcome.begun) == ("malformed-multipart", 0)


def test_a_boundary_that_is_not_the_one_named_is_refused(taken: Take) -> None:
    assert taken(message(GOOD, boundary=b"other")).error == "malformed-multipart"
    assert taken(message(GOOD), boundary=b"the-boundar").error == "malformed-multipart"
    assert taken(message(GOOD), boundary=b"the-boundary-").error == "malformed-multipart"


def test_an_empty_body_has_no_files(taken: Take) -> None:
    assert taken().error == "no-files"
    assert taken(b"", b"").error == "no-files"


@pytest.mark.parametrize("end", [b"", b"\r\n"])
def test_only_the_end_marker_is_a_whole_body_without_files(taken: Take, end: bytes) -> None:
    outcome = taken(message(end=end))
    assert (outcome.error, outcome.begun) == (None, 0)


def test_fields_alone_are_a_whole_body_without_files(taken: Take) -> None:
    outcome = taken(message(part(b"1", name="batch_id"), part(b"2", name="b")))
    assert (outcome.error, outcome.begun, outcome.fields) == (None, 0, (("batch_id", "1"),))
