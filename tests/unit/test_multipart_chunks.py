"""However a body is cut into chunks, and wherever it ends."""

import hashlib
from concurrent.futures import Executor
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.multipart import MultipartBody
from app.ingest.receive import Reception
from app.storage.local import LocalStore
from tests.support.receiving import BOUNDARY, LIMITS, make_reception, message, part, take
from tests.unit.conftest import Take

SMALL = b"small\r\n--the-boundar"
BIG = b"big \r\r\n--the-boundary-\r\n" + bytes(range(40))
FILES = [SMALL, BIG, b""]
NAMES = ["small.txt", "big.bin", "empty"]
PACKED = len(SMALL)
WHOLE = message(*(part(content, filename=name) for content, name in zip(FILES, NAMES, strict=True)), end=b"")
BCHARS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'()+_,-./:=?"
DELIMITER = b"\r\n--" + BOUNDARY


def whole_at(cut: int) -> int:
    """How many files are known to be whole from the first `cut` bytes of WHOLE: their delimiter is there to its end."""
    count = 0
    end = WHOLE.find(DELIMITER)
    while end != -1:
        behind = end + len(DELIMITER)
        count += WHOLE[behind : behind + 2] in {b"\r\n", b"--"} and behind + 2 <= cut
        end = WHOLE.find(DELIMITER, behind)
    return count


def test_the_example_holds_three_files_and_false_delimiters() -> None:
    assert [whole_at(cut) for cut in (0, len(WHOLE) - 1, len(WHOLE))] == [0, 2, 3]
    assert WHOLE.count(DELIMITER) > 3


def test_a_body_cut_anywhere_is_refused_and_keeps_just_the_files_that_were_whole(taken: Take) -> None:
    for cut in range(len(WHOLE)):
        outcome = taken(WHOLE[:cut], pack_file_bytes=PACKED)
        assert outcome.error == ("truncated-multipart" if cut else "no-files"), cut
        assert outcome.contents == FILES[: whole_at(cut)], cut


@pytest.mark.parametrize("end", [b"", b"\r", b"\r\n"])
def test_only_the_whole_body_is_taken(taken: Take, end: bytes) -> None:
    outcome = taken(WHOLE + end, pack_file_bytes=PACKED)
    assert (outcome.error, outcome.contents, outcome.names) == (None, FILES, NAMES)


def test_a_file_that_was_cut_leaves_nothing_in_the_store(store: LocalStore, hashers: Executor) -> None:
    for cut in range(0, len(WHOLE), 7):
        take([WHOLE[:cut]], store=store, hashers=hashers, pack_file_bytes=0)
    assert list(store.list()) == []


BODIES = {
    "whole": WHOLE + b"\r\n",
    "without a last line break": WHOLE,
    "line break first": b"\r\n" + WHOLE + b"\r\n",
    "batch_id": message(part(b"0192", name="batch_id"), part(b"x", filename="f")),
    "fields": message(part(b"one", name="a"), part(b"x", filename="f"), part(b"\r\ntwo\r\n", name="b")),
    "padding": WHOLE.replace(b"\r\n--the-boundary\r\n", b"\r\n--the-boundary \t\r\n"),
    "much padding": WHOLE.replace(b"\r\n--the-boundary\r\n", b"\r\n--the-boundary" + b" " * 64 + b"\r\n", 1).replace(
        b"\r\n--the-boundary\r\n", b"\r\n--the-boundary" + b" \t" * 33 + b"\r\n"
    ),
    "an end that is content": message(part(b"--the-boundary--\r\nmore", filename="a"), part(b"x", filename="b")),
    "an end that is a header": message(part(b"x", filename="a", headers=b"--the-boundary--: x\r\n")),
    "only the end": message(),
    "only the end without a line break": message(end=b""),
    "only the end and junk": message(end=b"junk"),
    "only the end and a long epilogue": message(end=b"\r\n" + b"x" * 50),
    "cut": WHOLE[:-1],
    "cut in a header": WHOLE[:40],
    "preamble": b"x" + WHOLE,
    "preamble of line breaks": b"\r\n\r\n" + WHOLE,
    "epilogue": WHOLE + b"x",
    "long epilogue": WHOLE + b"\r\n" + b"x" * 50,
    "two bodies": WHOLE + b"\r\n" + WHOLE,
    "bare line feeds": WHOLE.replace(b"\r\n", b"\n"),
    "bare line feed in a header": WHOLE.replace(b"; filename", b"\nfilename"),
    "another boundary": WHOLE.replace(BOUNDARY, b"the-other-one"),
    "longer boundary": WHOLE.replace(BOUNDARY, BOUNDARY + b"-"),
    "no name": message(part(b"x", filename="a"), part(b"y", disposition=b"form-data")),
    "bad name": message(part(b"x", filename="../a"), part(b"y", filename="b")),
    "CR in a name": message(part(b"\r", filename="a\rb\r"), part(b"\r\r", filename="a")),
    "CR in a header name": message(part(b"x", filename="a"), part(filename="b", headers=b"X\r: y\r\n")),
    "header twice": message(part(b"x", filename="a", headers=b"A: b\r\na: c\r\n")),
    "encoded": message(part(b"x", filename="a"), part(filename="b", headers=b"Content-Transfer-Encoding: base64\r\n")),
    "padding with junk": message(part(b"x", filename="a") + b"\r\n--the-boundary y"),
    "late field": message(part(b"x", filename="a"), part(b"1", name="batch_id")),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_in_any_two_chunks_comes_to_the_same(taken: Take, name: str) -> None:
    body = BODIES[name]
    once = taken(body, pack_file_bytes=PACKED)
    for cut in range(len(body) + 1):
        packed = PACKED if cut % 7 == 0 else LIMITS.pack_file_bytes  # the disk is the slow part
        assert taken(body[:cut], body[cut:], pack_file_bytes=packed) == once, cut


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_in_crumbs_comes_to_the_same(taken: Take, name: str, size: int) -> None:
    body = BODIES[name]
    crumbs = [body[start : start + size] for start in range(0, len(body), size)]
    assert taken(*crumbs, pack_file_bytes=PACKED) == taken(body, pack_file_bytes=PACKED)


def test_limits_do_not_depend_on_the_chunks(taken: Take) -> None:
    header = part(filename="a", headers=b"X: " + b"x" * 4093 + b"\r\n")
    too_long = part(filename="a", headers=b"X: " + b"x" * 4094 + b"\r\n")
    for body, error in ((message(header), None), (message(too_long), "malformed-multipart")):
        for size in (1, 7, 4000, len(body)):
            chunks = [body[start : start + size] for start in range(0, len(body), size)]
            assert taken(*chunks).error == error


def without(delimiter: bytes, content: bytes) -> bytes:
    while delimiter in content:
        content = content.replace(delimiter, delimiter[:-1])
    return content


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, list[bytes], list[bytes], int]:
    """A boundary, contents that do not hold it but nearly do, the body in chunks, and a limit of packs."""
    boundary = draw(st.text(BCHARS, min_size=1, max_size=70)).encode()
    delimiter = b"\r\n--" + boundary
    near = st.integers(0, len(delimiter)).map(lambda end: delimiter[:end])
    crumb = st.sampled_from([b"\r\n", b"\r", b"\n", b"--", b"-", b" ", b"\0", boundary, delimiter[:-1] + b"\r"])
    pieces = st.lists(near | crumb | st.binary(max_size=20), max_size=12).map(b"".join)
    contents = [without(delimiter, content) for content in draw(st.lists(pieces, min_size=1, max_size=5))]
    body = message(*(part(content, filename="a") for content in contents), boundary=boundary)
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=12)))
    chunks = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    return boundary, contents, chunks, draw(st.sampled_from([0, 10, 1 << 20, 1 << 20]))


@given(body=bodies())
@settings(max_examples=300)
def test_any_files_with_any_boundary_in_any_chunks_arrive_byte_for_byte(
    shared_store: LocalStore, hashers: Executor, body: tuple[bytes, list[bytes], list[bytes], int]
) -> None:
    boundary, contents, chunks, packed = body
    receive = partial(take, store=shared_store, hashers=hashers, boundary=boundary, pack_file_bytes=packed)
    outcome = receive(chunks)
    assert (outcome.error, outcome.contents) == (None, contents)
    assert [file.sha256 for file in outcome.files] == [hashlib.sha256(content).digest() for content in contents]


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """One of the examples, with some bytes of it replaced by others, or by what means something in a body."""
    body = BODIES[draw(st.sampled_from(sorted(BODIES)))]
    start = draw(st.integers(0, len(body)))
    crumb = st.sampled_from(
        [b"\r\n", DELIMITER + b"\r\n", part(b"x", filename="f"), b"--", b"\r", b'"', b"\\", b" ", b"\0"]
    )
    junk = draw(st.lists(crumb, max_size=4).map(b"".join) | st.binary(max_size=60))
    return body[:start] + junk + body[start + draw(st.integers(0, 60)) :]


@given(body=spoiled())
@settings(max_examples=300)
def test_a_body_with_junk_anywhere_is_taken_or_refused_alike_whole_and_in_crumbs(
    shared_store: LocalStore, hashers: Executor, body: bytes
) -> None:
    outcome = take([body], store=shared_store, hashers=hashers, pack_file_bytes=PACKED)
    assert len(outcome.files) <= outcome.begun
    assert outcome.error or len(outcome.files) == outcome.begun
    assert all(len(file.sha256) == 32 for file in outcome.files if file.refusal is None)
    crumbs = [body[at : at + 1] for at in range(len(body))]
    assert take(crumbs, store=shared_store, hashers=hashers, pack_file_bytes=PACKED) == outcome


def test_memory_is_counted_while_a_file_gathers_and_until_it_is_taken(
    shared_store: LocalStore, hashers: Executor
) -> None:
    reception = make_reception(shared_store, hashers, pack_file_bytes=100)
    assert reception.memory_bytes == 0
    reception.begin_file(b"a", None)
    reception.add(b"x" * 60)
    reception.add(b"x" * 40)
    assert reception.memory_bytes == 100
    reception.end_file()
    reception.begin_file(b"b", None)
    reception.add(b"y" * 70)
    assert reception.memory_bytes == 170
    reception.spill()
    assert reception.memory_bytes == 100
    reception.add(b"y")
    assert reception.memory_bytes in {100, 101}
    reception.end_file()
    assert reception.memory_bytes == 100
    reception.abandon()
    assert reception.memory_bytes == 0


class Patient:
    """A body that is fed as a request's is: bytes that can wait do, until others come, or the end.

    Either both come in one, as they do there, or one behind the other, to see what those that waited come to.
    """

    def __init__(self, body: MultipartBody, reception: Reception, *, joined: bool) -> None:
        self.body = body
        self.reception = reception
        self.joined = joined
        self.waiting = b""

    def feed(self, data: bytes) -> None:
        if self.body.can_wait(data):
            self.waiting += data
            return
        if self.joined:
            data, self.waiting = self.waiting + data, b""
        self.feed_waiting()
        self.body.feed(data)

    def finish(self) -> None:
        self.feed_waiting()
        self.body.finish()

    def feed_waiting(self) -> None:
        before = (self.reception.files, len(self.reception.ready), dict(self.reception.fields))
        self.body.feed(self.waiting)
        self.waiting = b""
        assert (self.reception.files, len(self.reception.ready), self.reception.fields) == before


@given(body=spoiled(), size=st.integers(1, 5), joined=st.booleans())
@settings(max_examples=300)
def test_what_can_wait_ends_nothing_and_comes_to_the_same_later(
    shared_store: LocalStore, hashers: Executor, body: bytes, size: int, *, joined: bool
) -> None:
    outcome = take([body], store=shared_store, hashers=hashers, pack_file_bytes=PACKED)
    crumbs = [body[at : at + size] for at in range(0, len(body), size)]
    feeding = partial(Patient, joined=joined)
    assert take(crumbs, store=shared_store, hashers=hashers, pack_file_bytes=PACKED, feeding=feeding) == outcome


def test_most_of_a_file_can_wait(shared_store: LocalStore, hashers: Executor) -> None:
    reception = make_reception(shared_store, hashers)
    body = MultipartBody(BOUNDARY, reception, max_parts=1)
    begun = message(part(b"content", filename="a")).partition(b"content")[0]
    assert not body.can_wait(b"content")
    body.feed(begun)
    assert body.can_wait(b"content")
    assert not body.can_wait(b"cont\rent")
    body.feed(b"cont\r")
    assert not body.can_wait(b"\n--")
    body.feed(b"ent")
    assert body.can_wait(b"content")
    reception.abandon()
