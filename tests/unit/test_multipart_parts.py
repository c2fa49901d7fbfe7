import hashlib

import pytest

from app.storage.local import LocalStore
from tests.support.receiving import LIMITS, Outcome, message, part
from tests.unit.conftest import Take

LIMIT = LIMITS.pack_file_bytes


def only_file(outcome: Outcome) -> tuple[str, str | None]:
    """Name and refusal of the one file of a body that is well-formed."""
    assert outcome.error is None
    assert len(outcome.files) == 1
    return outcome.files[0].filename, outcome.files[0].refusal


def test_files_come_in_order_under_any_field_name(taken: Take) -> None:
    outcome = taken(
        message(
            part(b"one", name="files", filename="1.txt", headers=b"Content-Type: text/plain\r\n"),
            part(b"two", name="photo[]", filename="b/2.jpg", headers=b"Content-Type: image/jpeg; q=1\r\n"),
            part(b"", name="", filename="3"),
        )
    )
    assert outcome.error is None
    assert outcome.names == ["1.txt", "b/2.jpg", "3"]
    assert outcome.contents == [b"one", b"two", b""]
    assert [file.content_type for file in outcome.files] == ["text/plain", "image/jpeg; q=1", None]
    assert [file.sha256 for file in outcome.files] == [hashlib.sha256(x).digest() for x in (b"one", b"two", b"")]


def test_the_same_name_twice_is_two_files(taken: Take) -> None:
    outcome = taken(message(part(b"a", filename="same"), part(b"b", filename="same")))
    assert (outcome.names, outcome.contents) == (["same", "same"], [b"a", b"b"])


@pytest.mark.parametrize(
    "headers", [b"", b"Content-Type: text/plain\r\n", b"Content-Type: Text/Plain;charset=utf-8\r\n"]
)
def test_a_part_without_a_filename_is_a_field(taken: Take, headers: bytes) -> None:
    outcome = taken(message(part(b"v\xc3\xa4lue\r\n", name="batch_id", headers=headers), part(filename="a")))
    assert outcome.fields == (("batch_id", "välue\r\n"),)
    assert outcome.names == ["a"]


def test_the_batch_must_be_named_before_the_first_file(taken: Take) -> None:
    outcome = taken(message(part(filename="a"), part(b"1", name="batch_id")))
    assert (outcome.error, outcome.names) == ("invalid-field", ["a"])


@pytest.mark.parametrize("size", [0, 1, LIMIT - 1, LIMIT, LIMIT + 1, 3 * LIMIT])
@pytest.mark.parametrize("pack_file_bytes", [LIMIT, 0])
def test_files_of_every_size_around_the_limit_of_packs(taken: Take, size: int, pack_file_bytes: int) -> None:
    content = bytes(number % 251 for number in range(size))
    outcome = taken(message(part(content, filename="a"), part(content, filename="b")), pack_file_bytes=pack_file_bytes)
    assert (outcome.error, outcome.contents) == (None, [content, content])
    assert {file.sha256 for file in outcome.files} == {hashlib.sha256(content).digest()}


def test_a_file_over_the_limit_is_refused_and_the_others_are_kept(taken: Take, shared_store: LocalStore) -> None:
    before = list(shared_store.list())
    body = message(
        part(b"x" * 2000, filename="fits"), part(b"y" * 2001, filename="too big"), part(b"z", filename="after")
    )
    chunks = [body[start : start + 100] for start in range(0, len(body), 100)]
    outcome = taken(*chunks, max_file_bytes=2000)
    assert outcome.error is None
    assert outcome.contents == [b"x" * 2000, None, b"z"]
    assert [file.refusal for file in outcome.files] == [None, "file-too-large", None]
    assert list(shared_store.list()) == before


@pytest.mark.parametrize(
    "filename",
    [
        b"",
        b"a\0b",
        b"a\nb",
        b"a\rb",
        b"a\x7fb",
        b"\xc2\x85",
        b"x" * 256,
        b"caf\xe9",
        b"../../etc/passwd",
        b"C:\\x",
        b"/etc/passwd",
        b"a/../b",
        b"a/",
    ],
)
def test_a_name_that_is_no_plain_relative_path_refuses_its_file_alone(taken: Take, filename: bytes) -> None:
    bad = part(disposition=b'form-data; name="f"; filename="' + filename + b'"')
    outcome = taken(message(part(b"1", filename="before"), bad, part(b"2", filename="after")))
    assert outcome.error is None
    assert [file.refusal for file in outcome.files] == [None, "invalid-filename", None]
    assert outcome.contents == [b"1", None, b"2"]


def test_a_typed_part_without_a_filename_is_a_file_without_a_name(taken: Take) -> None:
    body = message(part(name="photo", headers=b"Content-Type: image/png\r\n"))
    assert only_file(taken(body)) == ("", "invalid-filename")


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (b'form-data; name="f"; filename="a/b/c.jpg"', "a/b/c.jpg"),
        (b'form-data; filename="a"; name="f"', "a"),
        (b'Form-Data ; NAME=f ; FILENAME="a b" ;', "a b"),
        (b"form-data;name=f;filename=a.txt", "a.txt"),
        (b'form-data; name="f"; filename="a\\"b"', 'a"b'),
        (b'form-data; name="f"; filename="a\\\\b"', "a\\b"),
        (b'form-data; name="f"; filename="a\\\\\\"b"', 'a\\"b'),
        (b'form-data; name="f"; filename="a;b=c"', "a;b=c"),
        (b'form-data; name="f"; filename="a%22b%0D%0A"', "a%22b%0D%0A"),
        (b'form-data; name="f"; filename="\xc3\xbcber"', "über"),
        (b'form-data; name="f"; filename="a"; filename*=UTF-8\'\'other', "a"),
        (b'form-data; name="f"; filename*=UTF-8\'\'other; filename="a"', "a"),
        (b'form-data; name="f"; size=3; filename="a"', "a"),
        (b'form-data; name="f"; filename="gpj.\xe2\x80\xaeexe"', "gpj.\N{RIGHT-TO-LEFT OVERRIDE}exe"),
    ],
)
def test_every_usual_way_to_write_a_name(taken: Take, disposition: bytes, name: str) -> None:
    assert only_file(taken(message(part(disposition=disposition)))) == (name, None)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"image/png", "image/png"),
        (b"  image/png ", "image/png"),
        (b"anything at all", "anything at all"),
        (b"", None),
        (b"text/html\0", None),
        (b"caf\xe9/x", None),
        (b"a/" + b"b" * 253, "a/" + "b" * 253),
        (b"a/" + b"b" * 254, None),
    ],
)
def test_a_declared_type_is_kept_where_it_can_be_shown(taken: Take, sent: bytes, kept: str | None) -> None:
    outcome = taken(message(part(filename="a", headers=b"Content-Type: " + sent + b"\r\n")))
    assert outcome.files[0].content_type == kept


def test_header_names_are_read_in_any_case(taken: Take) -> None:
    outcome = taken(message(b'CONTENT-disposition: form-data; name="f"; filename="a"\r\ncontent-TYPE: a/b\r\n\r\nx'))
    assert (outcome.names, outcome.files[0].content_type) == (["a"], "a/b")


@pytest.mark.parametrize("encoding", [b"binary", b"8bit", b"7bit", b" 7BIT "])
def test_an_encoding_that_changes_nothing_is_taken(taken: Take, encoding: bytes) -> None:
    headers = b"Content-Transfer-Encoding: " + encoding + b"\r\n"
    assert taken(message(part(b"YQ==", filename="a", headers=headers))).contents == [b"YQ=="]


def test_content_that_nearly_is_a_boundary_is_content(taken: Take) -> None:
    content = b"--the-boundary\r\n--the-boundar\r\n--the-boundary-\r\n--the-boundaryx\r\n\r\n--\r--the-boundary--"
    assert taken(message(part(content, filename="a"))).contents == [content]


@pytest.mark.parametrize(
    ("blanks", "error"), [(2, None), (64, None), (65, "malformed-multipart"), (10**7, "malformed-multipart")]
)
def test_padding_behind_a_boundary_is_passed_over_unless_it_is_much(
    taken: Take, blanks: int, error: str | None
) -> None:
    padding = b" \t" * (blanks // 2) + b" " * (blanks % 2)
    body = message(part(b"1", filename="a"), part(b"2", filename="b"), part(b"3", filename="c")).replace(
        b"2\r\n--the-boundary", b"2\r\n--the-boundary" + padding
    )
    outcome = taken(body)
    assert (outcome.error, outcome.contents) == (error, [b"1"] if error else [b"1", b"2", b"3"])
