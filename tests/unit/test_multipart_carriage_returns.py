"""A CR that no LF follows: in the head of a part it ends no line, and in a file it is a byte like any other."""

import re
from collections.abc import Iterator
from concurrent.futures import Executor
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.storage.local import LocalStore
from tests.support.receiving import BOUNDARY, LIMITS, Outcome, message, part, take
from tests.unit.conftest import Take

DELIMITER = b"\r\n--" + BOUNDARY + b"\r\n"
PARTS = {
    "filename": part(b"\rx\r", filename="a\rb"),
    "filename, at its start": part(b"\rx\r", filename="\ra"),
    "filename, at its end": part(b"\rx\r", filename="a\r"),
    "filename of nothing else": part(b"\r", filename="\r\r\r"),
    "filename that looks like headers": part(filename="a\rX: y\r\r--the-boundary--\r"),
    "filename behind a backslash": part(disposition=b'form-data; name="f"; filename="a\\\rb"'),
    "field name": part(b"\rx", name="f\rg", filename="a"),
    "name of a text field": part(b"\rx", name="batch_id\r"),
    "Content-Type": part(b"\rx", filename="a", headers=b"Content-Type: image\r/png\r\n"),
    "Content-Type of nothing else": part(b"\rx", filename="a", headers=b"Content-Type:\r\r\n"),
    "header that nobody reads": part(b"\rx", filename="a", headers=b"X: \r\ry\r\r\n"),
}
REFUSED = {
    "header name": part(filename="a", headers=b"X\rY: z\r\n"),
    "header name, at its start": part(filename="a", headers=b"\rX: y\r\n"),
    "header name, at its end": part(filename="a", headers=b"X\r: y\r\n"),
    "start of a head": b"\r" + part(filename="a"),
    "start of a head, twice": b"\r\r\n" + part(filename="a"),
    "end of a head": part(filename="a").replace(b"\r\n\r\n", b"\r\n\r\r\n"),
    "place of a line end": part(filename="a").replace(b"\r\n\r\n", b"\r\r"),
    "line end": part(filename="a").replace(b"\r\n\r\n", b"\r\r\n\r\n"),
    "line end within quotes": part(filename="a\r\r\nb"),
    "line end and no more": part(filename="a\r\nb"),
    "disposition": part(disposition=b'form-data;\rname="f"; filename="a"'),
    "disposition, at its start": part(disposition=b'\rform-data; name="f"; filename="a"'),
    "disposition, at its end": part(disposition=b'form-data; name="f"; filename="a"\r'),
    "value without quotes": part(disposition=b'form-data; name="f"; filename=a\rb'),
    "encoding": part(filename="a", headers=b"Content-Transfer-Encoding: \rbase64\r\n"),
}


def among(one: bytes, delimiter: bytes = DELIMITER) -> bytes:
    """A body with that part between two good files, whose heads are as clients write them."""
    body = message(part(b"before\r", filename="before"), one, part(b"\rafter", filename="after"))
    return body.replace(DELIMITER, delimiter)


def ways(body: bytes) -> Iterator[list[bytes]]:
    """The body in crumbs, cut in two anywhere, and cut in three around each CR that no LF follows."""
    yield from ([body[at : at + size] for at in range(0, len(body), size)] for size in (1, 2, 3))
    yield from ([body[:cut], body[cut:]] for cut in range(len(body)))
    for bare in re.finditer(rb"\r(?!\n)", body):
        for one, other in combinations(range(bare.start() - 1, bare.end() + 3), 2):
            yield [body[:one], body[one:other], body[other:]]


def only(taken: Take, body: bytes) -> Outcome:
    """What becomes of a body, however it is cut."""
    outcome = taken(body)
    assert all(taken(*chunks) == outcome for chunks in ways(body))
    return outcome


@pytest.mark.parametrize("delimiter", [DELIMITER, DELIMITER.replace(b"y\r", b"y \t\r")], ids=["plain", "padded"])
@pytest.mark.parametrize("where", [name for name in PARTS if name.startswith("filename")])
def test_in_a_filename_it_refuses_its_file_alone(taken: Take, where: str, delimiter: bytes) -> None:
    outcome = only(taken, among(PARTS[where], delimiter))
    assert outcome.error is None
    assert [file.refusal for file in outcome.files] == [None, "invalid-filename", None]
    assert outcome.contents == [b"before\r", None, b"\rafter"]
    assert outcome.names[1].isprintable()


@pytest.mark.parametrize("where", ["field name", "Content-Type", "Content-Type of nothing else"])
def test_in_the_name_of_a_field_or_in_a_type_it_costs_no_more_than_the_type(taken: Take, where: str) -> None:
    outcome = only(taken, among(PARTS[where]))
    assert (outcome.error, outcome.contents) == (None, [b"before\r", b"\rx", b"\rafter"])
    assert (outcome.files[1].refusal, outcome.files[1].content_type) == (None, None)


def test_a_text_field_with_it_in_its_name_is_another_field(taken: Take) -> None:
    outcome = only(taken, among(PARTS["name of a text field"]))
    assert (outcome.error, outcome.fields, outcome.names) == (None, (), ["before", "after"])


def test_it_ends_no_line_of_a_header_that_nobody_reads(taken: Take) -> None:
    outcome = only(taken, among(PARTS["header that nobody reads"]))
    assert (outcome.error, outcome.contents) == (None, [b"before\r", b"\rx", b"\rafter"])


@pytest.mark.parametrize("where", REFUSED)
def test_elsewhere_in_a_head_it_ends_the_body(taken: Take, where: str) -> None:
    outcome = only(taken, among(REFUSED[where]))
    assert outcome.error == ("unsupported-media-type" if where == "encoding" else "malformed-multipart")
    assert outcome.contents == [b"before\r"]


@pytest.mark.parametrize("where", PARTS)
def test_a_body_that_is_cut_behind_it_is_not_whole(taken: Take, where: str) -> None:
    body = among(PARTS[where])
    ends = [at + 1 for at in range(body.index(b"before"), len(body) - 2) if body[at : at + 1] == b"\r"]
    assert {taken(body[:end]).error for end in ends} == {"truncated-multipart"}


@pytest.mark.parametrize("chunk", [1 << 20, 40_000, 4096, 97])
def test_a_head_deep_within_a_chunk_is_told_from_the_files_around_it(taken: Take, chunk: int) -> None:
    filling = b'\r\r\n\r\nX: y\rz\r\n\r\r\n--the-boundar\r\r; filename="a\rb"\r\n\r' * 1000
    files = [filling, b"\r" * 50_000, b"\r", b"\r\n\r", b"\r\r\n\r\n" * 10_000]
    body = message(*(part(content, filename=name) for content in files for name in ("good", "b\rad", "good")))
    outcome = taken(*(body[at : at + chunk] for at in range(0, len(body), chunk)), pack_file_bytes=1 << 20)
    assert outcome.error is None
    assert outcome.contents == [kept for content in files for kept in (content, None, content)]


@st.composite
def bodies(draw: st.DrawFn) -> tuple[list[tuple[str, bytes]], list[bytes]]:
    """Names and contents of files with CRs anywhere, some of them long, and their body in chunks."""
    names = st.text("a\r ;:=", min_size=1, max_size=6)
    crumb = st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"X: \r\r\n", b"--", b"x", DELIMITER[:-3]])
    contents = st.builds(
        lambda crumbs, times: b"".join(crumbs) * times, st.lists(crumb, max_size=8), st.sampled_from([1, 1, 5000])
    ).filter(lambda content: DELIMITER[:-2] not in content)
    files = draw(st.lists(st.tuples(names, contents), min_size=1, max_size=5))
    body = message(*(part(content, filename=name) for name, content in files))
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=6)))
    return files, [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]


@given(drawn=bodies())
@settings(max_examples=300)
def test_it_costs_the_files_in_whose_names_it_is_and_is_kept_in_all_others(
    shared_store: LocalStore, hashers: Executor, drawn: tuple[list[tuple[str, bytes]], list[bytes]]
) -> None:
    files, chunks = drawn
    outcome = take(chunks, store=shared_store, hashers=hashers, pack_file_bytes=LIMITS.max_file_bytes)
    assert outcome.error is None
    assert outcome.contents == [None if "\r" in name else content for name, content in files]
