import hashlib
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.errors import FileTooLargeError, InvalidFilenameError, StorageFullError, StorageUnavailableError
from app.domain.ids import new_id
from app.domain.limits import STEP_BYTES
from app.domain.upload import Refusal
from app.ingest.arrival import Assembly
from app.storage.local import LocalStore
from tests.support.breaking_store import BreakingStore
from tests.support.receiving import LIMITS, content_of

LIMIT = 1000
Assemble = Callable[..., Assembly]


@pytest.fixture
def breaking(store: LocalStore) -> BreakingStore:
    return BreakingStore(store)


@pytest.fixture
def assemble(breaking: BreakingStore, hashers: Executor) -> Assemble:
    """Begin a file under limits of its own."""

    def begin(**limits: int) -> Assembly:
        chosen = replace(LIMITS, **{"pack_file_bytes": LIMIT, **limits})
        return Assembly(3, "a/b.txt", "a/b", store=breaking, limits=chosen, new_id=new_id, hashers=hashers)

    return begin


def test_a_small_file_stays_in_memory(assemble: Assemble, breaking: BreakingStore) -> None:
    assembly = assemble()
    for piece in (b"x" * 600, b"", b"y" * 400):
        assembly.add(piece)
    assert assembly.memory_bytes == LIMIT
    arrival = assembly.finish()
    assert (arrival.index, arrival.filename, arrival.content_type) == (3, "a/b.txt", "a/b")
    assert arrival.size_bytes == arrival.memory_bytes == LIMIT
    assert arrival.sha256 == hashlib.sha256(b"x" * 600 + b"y" * 400).digest()
    assert content_of(breaking, arrival) == b"x" * 600 + b"y" * 400
    assert breaking.writers == []


def test_a_file_one_byte_over_the_limit_has_an_object_of_its_own_and_is_synced(
    assemble: Assemble, breaking: BreakingStore
) -> None:
    assembly = assemble()
    assembly.add(b"x" * LIMIT)
    assembly.add(b"y")
    arrival = assembly.finish()
    assert arrival.writer is breaking.writers[0]
    assert (breaking.writers[0].synced_bytes, breaking.writers[0].closed) == (LIMIT + 1, False)
    assert (arrival.size_bytes, arrival.memory_bytes) == (LIMIT + 1, 0)
    assert arrival.sha256 == hashlib.sha256(b"x" * LIMIT + b"y").digest()
    assert content_of(breaking, arrival) == b"x" * LIMIT + b"y"
    arrival.abandon()


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 100])
def test_without_packs_every_file_has_an_object_of_its_own(
    assemble: Assemble, breaking: BreakingStore, content: bytes
) -> None:
    assembly = assemble(pack_file_bytes=0)
    assembly.add(content)
    arrival = assembly.finish()
    assert arrival.writer is not None
    assert [writer.synced_bytes for writer in breaking.writers] == [len(content)]
    assert arrival.sha256 == hashlib.sha256(content).digest()
    assert content_of(breaking, arrival) == content
    arrival.abandon()


def test_an_empty_file_is_a_file(assemble: Assemble, breaking: BreakingStore) -> None:
    arrival = assemble().finish()
    assert (arrival.size_bytes, arrival.writer, arrival.refusal) == (0, None, None)
    assert arrival.sha256 == hashlib.sha256().digest()


def test_where_memory_is_short_a_file_of_any_size_goes_to_the_store(
    assemble: Assemble, breaking: BreakingStore
) -> None:
    assembly = assemble()
    content = b""
    for piece in (b"a", b"b" * 20, b"c" * 300):
        assembly.add(piece)
        content += piece
        assembly.spill()
        assert assembly.memory_bytes == 0
    arrival = assembly.finish()
    assert len(breaking.writers) == 1
    assert arrival.sha256 == hashlib.sha256(content).digest()
    assert content_of(breaking, arrival) == content
    arrival.abandon()


@given(
    st.lists(st.binary(max_size=80) | st.just(b"z" * 400), max_size=30),
    st.sets(st.integers(0, 30)),
    st.sampled_from([0, 1, 100, LIMIT]),
)
@settings(max_examples=150)
def test_however_it_comes_and_spills_the_content_and_the_digest_are_right(
    shared_store: LocalStore, hashers: Executor, pieces: list[bytes], spills: set[int], packed: int
) -> None:
    limits = replace(LIMITS, pack_file_bytes=packed)
    assembly = Assembly(0, "a", None, store=shared_store, limits=limits, new_id=new_id, hashers=hashers)
    for number, piece in enumerate(pieces):
        assembly.add(piece)
        if number in spills and assembly.memory_bytes:
            assembly.spill()
        assert assembly.memory_bytes <= STEP_BYTES
    arrival = assembly.finish()
    content = b"".join(pieces)
    assert arrival.sha256 == hashlib.sha256(content).digest()
    assert content_of(shared_store, arrival) == content
    arrival.abandon()


def test_a_big_file_holds_no_more_than_a_step_in_memory(assemble: Assemble, breaking: BreakingStore) -> None:
    assembly = assemble()
    digest = hashlib.sha256()
    for number in range(40):
        piece = bytes([number]) * 100_000
        digest.update(piece)
        assembly.add(piece)
        assert assembly.memory_bytes <= STEP_BYTES
    arrival = assembly.finish()
    assert arrival.sha256 == digest.digest()
    assert breaking.writers[0].synced_bytes == arrival.size_bytes == 4_000_000
    arrival.abandon()


@pytest.mark.parametrize("packed", [0, LIMIT, 10 * LIMIT])
def test_a_file_over_the_limit_is_refused_and_leaves_nothing(
    assemble: Assemble, breaking: BreakingStore, packed: int
) -> None:
    assembly = assemble(max_file_bytes=2 * LIMIT, pack_file_bytes=packed)
    for _ in range(20):
        assembly.add(b"x" * 150)
    assert assembly.memory_bytes == 0
    arrival = assembly.finish()
    limit = 2 * LIMIT
    error = FileTooLargeError(f"The file is over {limit} bytes.", max_file_bytes=limit)
    assert arrival.refusal == Refusal.of(error)
    assert (arrival.size_bytes, arrival.sha256, arrival.pieces, arrival.writer) == (0, b"", [], None)
    assert all(writer.closed for writer in breaking.writers)
    assert list(breaking.list()) == []


def test_a_file_of_just_the_largest_size_is_taken(assemble: Assemble) -> None:
    assembly = assemble(max_file_bytes=LIMIT)
    assembly.add(b"x" * LIMIT)
    assert assembly.finish().refusal is None


def test_a_file_refused_by_its_name_takes_no_bytes(assemble: Assemble, breaking: BreakingStore) -> None:
    assembly = assemble(pack_file_bytes=0)
    assembly.refuse(InvalidFilenameError("No."))
    assembly.add(b"x" * 5000)
    arrival = assembly.finish()
    assert arrival.refusal == Refusal("invalid-filename", "No.")
    assert (arrival.size_bytes, arrival.memory_bytes, breaking.writers) == (0, 0, [])


@pytest.mark.parametrize("fault", [StorageFullError(), StorageUnavailableError()])
@pytest.mark.parametrize("call", ["create", "write"])
def test_a_store_that_fails_while_a_file_comes_says_so_and_keeps_nothing(
    assemble: Assemble, breaking: BreakingStore, call: str, fault: StorageFullError | StorageUnavailableError
) -> None:
    assembly = assemble()
    breaking.faults[call] = fault
    assembly.add(b"x" * LIMIT)
    with pytest.raises(type(fault)):
        assembly.add(b"y")
    assembly.abandon()
    assert all(writer.closed for writer in breaking.writers)
    assert list(breaking.list()) == []


def test_a_sync_that_fails_makes_no_file_and_keeps_nothing(assemble: Assemble, breaking: BreakingStore) -> None:
    assembly = assemble()
    assembly.add(b"x" * (LIMIT + 1))
    breaking.faults["sync"] = StorageUnavailableError()
    with pytest.raises(StorageUnavailableError):
        assembly.finish()
    assembly.abandon()
    assert list(breaking.list()) == []


@pytest.mark.parametrize("size", [0, 10, LIMIT + 1])
def test_a_file_that_was_never_whole_is_given_up_without_a_trace(
    assemble: Assemble, breaking: BreakingStore, size: int
) -> None:
    assembly = assemble()
    assembly.add(b"x" * size)
    assembly.abandon()
    assembly.abandon()
    assert list(breaking.list()) == []


@pytest.mark.parametrize("size", [0, 10, LIMIT + 1])
def test_a_whole_file_that_no_batch_takes_is_given_up_without_a_trace(
    assemble: Assemble, breaking: BreakingStore, size: int
) -> None:
    assembly = assemble()
    assembly.add(b"x" * size)
    arrival = assembly.finish()
    arrival.abandon()
    assert arrival.memory_bytes == 0
    assert list(breaking.list()) == []


def test_a_file_in_crumbs_costs_little_more_memory_than_its_bytes(assemble: Assemble) -> None:
    assembly = assemble(pack_file_bytes=100_000)
    for _ in range(10_000):
        assembly.add(b"xy")
    arrival = assembly.finish()
    assert len(arrival.pieces) <= 100
    assert b"".join(arrival.pieces) == b"xy" * 10_000
