"""What a body may cost, whatever it holds."""

import time
from concurrent.futures import Executor

import pytest

from app.api.multipart import MultipartBody
from app.domain.errors import TooManyPartsError
from app.domain.limits import MAX_FIELD_BYTES
from app.storage.local import LocalStore
from tests.support.receiving import BOUNDARY, make_reception, message, part
from tests.unit.conftest import Take

GOOD = part(b"kept", filename="kept.txt")
MIB = 1 << 20


@pytest.mark.parametrize("size", [MAX_FIELD_BYTES + 1, 2 * MIB])
def test_a_text_field_over_the_limit_is_refused(taken: Take, size: int) -> None:
    body = message(GOOD, part(b"x" * size, name="note"))
    outcome = taken(*[body[start : start + 10_000] for start in range(0, len(body), 10_000)])
    assert (outcome.error, outcome.contents, outcome.fields) == ("field-too-large", [b"kept"], ())


def test_a_text_field_of_just_the_limit_is_taken(taken: Take) -> None:
    outcome = taken(message(part(b"x" * MAX_FIELD_BYTES, name="batch_id"), GOOD))
    assert (outcome.error, outcome.fields) == (None, (("batch_id", "x" * MAX_FIELD_BYTES),))


def test_fields_that_nobody_asked_for_do_not_pile_up_in_memory(shared_store: LocalStore, hashers: Executor) -> None:
    reception = make_reception(shared_store, hashers)
    body = MultipartBody(BOUNDARY, reception, max_parts=20_000)
    for number in range(50):
        body.feed(b"--" + BOUNDARY + b"\r\n" + part(b"x" * MAX_FIELD_BYTES, name=f"field {number}") + b"\r\n")
    assert reception.fields == {}


def test_a_text_field_in_crumbs_costs_no_more_than_its_bytes(shared_store: LocalStore, hashers: Executor) -> None:
    body = MultipartBody(BOUNDARY, make_reception(shared_store, hashers), max_parts=2)
    body.feed(b"--" + BOUNDARY + b"\r\n" + part(b"", name="a"))
    seconds = []
    for _ in range(5):
        started = time.process_time()
        for _ in range(5000):
            body.feed(b"x")
        seconds.append(time.process_time() - started)
    assert seconds[-1] < 4 * seconds[0]


def test_a_header_full_of_spaces_costs_no_more_than_its_bytes(taken: Take) -> None:
    padded = part(disposition=b'form-data; name="f"; filename="a"' + b" " * 4000)
    started = time.process_time()
    assert taken(message(*[padded] * 100)).error is None
    assert time.process_time() - started < 1


def test_as_many_parts_as_allowed_are_taken_and_one_more_is_not(taken: Take) -> None:
    parts = [part(b"%d" % number, filename="a") for number in range(5)] + [part(b"v", name="note")]
    assert taken(message(*parts), max_parts=6).error is None
    outcome = taken(message(*parts), max_parts=5)
    assert (outcome.error, outcome.fields) == ("too-many-parts", ())
    assert outcome.contents == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("one", [part(b"x", filename="a"), part(b"x", name="a"), part(b"x", filename="..")])
def test_a_million_parts_are_read_no_further_than_the_limit(
    shared_store: LocalStore, hashers: Executor, one: bytes
) -> None:
    body = MultipartBody(BOUNDARY, make_reception(shared_store, hashers), max_parts=100)
    one_more = b"--" + BOUNDARY + b"\r\n" + one + b"\r\n"
    for _ in range(100):
        body.feed(one_more)
    with pytest.raises(TooManyPartsError) as refused:
        body.feed(one_more)
    assert refused.value.facts == {"max_parts": 100}


def test_a_million_parts_at_once_begin_no_more_files_than_the_limit(
    shared_store: LocalStore, hashers: Executor
) -> None:
    reception = make_reception(shared_store, hashers)
    body = MultipartBody(BOUNDARY, reception, max_parts=100)
    with pytest.raises(TooManyPartsError):
        body.feed((b"--" + BOUNDARY + b"\r\n" + part(b"x", filename="a") + b"\r\n") * 1_000_000)
    assert (reception.files, len(reception.ready)) == (100, 100)
