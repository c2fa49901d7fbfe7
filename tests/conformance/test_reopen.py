"""Going on with an object: from any byte, cutting off what no row vouches for, and by one writer at a time."""

import os
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import StorageUnavailableError
from app.domain.ids import new_id
from app.storage.base import ObjectWriter, Store
from tests.conformance.conftest import local_store
from tests.conformance.objects import is_claimable, read, remove, written
from tests.support.services import pattern

MIB = 1 << 20
CUTS = [0, 1, 511, 4095, 4096, 4097, 65_536, MIB - 1, MIB, MIB + 1, 3 * MIB]
CONTENT = pattern(3 * MIB)


def reopened(store: Store, object_id: UUID, at: int) -> ObjectWriter:
    writer = store.reopen(object_id, at=at)
    assert writer is not None
    return writer


def can_reopen(store: Store, object_id: UUID, at: int) -> bool:
    """For a process of its own."""
    writer = store.reopen(object_id, at=at)
    if writer:
        writer.close()
    return writer is not None


def go_on_and_be_killed(store: Store, object_id: UUID, at: int) -> None:
    """For a process of its own: it writes behind `at`, and dies with the writer open."""
    writer = reopened(store, object_id, at)
    writer.write([b"dead" * MIB])
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("at", CUTS)
def test_an_object_goes_on_from_any_byte(store: Store, at: int, *, big: bool) -> None:
    object_id = written(store, CONTENT, big=big)
    writer = reopened(store, object_id, at)
    assert (writer.object_id, writer.size_bytes) == (object_id, at)
    other = pattern(2 * MIB + 77, seed=1)
    writer.write([other[:100], b"", other[100:]])
    writer.sync()
    assert writer.size_bytes == at + len(other)
    writer.close()
    assert read(store, object_id, at + len(other)) == CONTENT[:at] + other
    with pytest.raises(StorageUnavailableError):
        read(store, object_id, at + len(other) + 1)


@pytest.mark.parametrize("at", CUTS)
def test_a_shorter_end_leaves_nothing_of_the_longer_one(store: Store, at: int) -> None:
    object_id = written(store, CONTENT)
    writer = reopened(store, object_id, at)
    writer.write([b"end"])
    writer.sync()
    writer.close()
    assert read(store, object_id, at + 3) == CONTENT[:at] + b"end"
    with pytest.raises(StorageUnavailableError):
        read(store, object_id, at + 4)


def test_nothing_is_cut_before_something_is_written(store: Store) -> None:
    object_id = written(store, CONTENT)
    reopened(store, object_id, 5).close()
    assert read(store, object_id, len(CONTENT)) == CONTENT


@given(st.lists(st.integers(0, 200_000), max_size=8))
def test_pieces_of_any_size_make_the_whole(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    store = local_store(tmp_path_factory.mktemp("pieces"))
    content = pattern(sum(sizes))
    object_id, offset = written(store), 0
    for size in sizes:
        writer = reopened(store, object_id, offset)
        for start in range(offset, offset + size, 70_000):
            writer.write([content[start : min(start + 70_000, offset + size)]])
        writer.sync()
        writer.write([b"never synced, never vouched for"])
        writer.close()
        offset += size
    assert read(store, object_id, offset) == content


def test_an_object_with_a_writer_is_not_reopened(store: Store, elsewhere: ProcessPoolExecutor) -> None:
    writer = store.create(new_id())
    writer.write([b"x"])
    writer.sync()
    assert store.reopen(writer.object_id, at=1) is None
    assert not elsewhere.submit(can_reopen, store, writer.object_id, 1).result()
    writer.close()
    again = reopened(store, writer.object_id, 1)
    assert store.reopen(writer.object_id, at=1) is None
    assert not elsewhere.submit(can_reopen, store, writer.object_id, 1).result()
    assert not is_claimable(store, writer.object_id)
    again.close()
    assert elsewhere.submit(can_reopen, store, writer.object_id, 1).result()
    assert is_claimable(store, writer.object_id)


def test_what_a_killed_writer_left_is_cut_off(store: Store) -> None:
    object_id = written(store, b"durable")
    process = get_context("spawn").Process(target=go_on_and_be_killed, args=(store, object_id, 7))
    process.start()
    process.join(30)
    assert process.exitcode == -9
    writer = reopened(store, object_id, 7)
    writer.write([b" and whole"])
    writer.sync()
    writer.close()
    assert read(store, object_id, 17) == b"durable and whole"
    with pytest.raises(StorageUnavailableError):
        read(store, object_id, 18)


def test_what_is_gone_or_too_short_is_not_gone_on_with(store: Store) -> None:
    object_id = written(store, b"short")
    with pytest.raises(StorageUnavailableError):
        store.reopen(object_id, at=6)
    assert is_claimable(store, object_id), "the refusal holds nothing"
    remove(store, object_id)
    for gone in (object_id, new_id()):
        with pytest.raises(StorageUnavailableError):
            store.reopen(gone, at=0)


def test_a_reopened_object_may_be_discarded(store: Store) -> None:
    object_id = written(store, b"x")
    reopened(store, object_id, 1).discard()
    assert list(store.list()) == []
