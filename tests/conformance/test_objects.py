from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.errors import StorageUnavailableError
from app.domain.ids import new_id
from app.storage.base import Store
from tests.conformance.conftest import STORES
from tests.conformance.objects import read, written

MIB = 1 << 20
SIZES = [0, 1, 4095, 4096, 4097, MIB - 1, MIB, MIB + 1, 3 * MIB + 5]


def content(size: int) -> bytes:
    return bytes(range(251)) * (size // 251) + bytes(range(size % 251))


@pytest.mark.parametrize("size", SIZES)
def test_what_was_written_is_read_back(store: Store, size: int, *, big: bool) -> None:
    object_id = written(store, content(size), big=big)
    assert read(store, object_id, size) == content(size)


@pytest.mark.parametrize("count", [0, 1, 2, 1023, 1024, 1025, 5000])
def test_many_buffers_are_written_in_order_and_empty_ones_add_nothing(store: Store, count: int, *, big: bool) -> None:
    buffers = [b"%d," % number if number % 7 else b"" for number in range(count)]
    object_id = written(store, *buffers, big=big)
    whole = b"".join(buffers)
    assert read(store, object_id, len(whole)) == whole


def test_a_writer_knows_its_object_and_how_much_it_wrote(store: Store, *, big: bool) -> None:
    object_id = new_id()
    writer = store.create(object_id, big=big)
    assert (writer.object_id, writer.size_bytes) == (object_id, 0)
    writer.write([b"abc", b"", b"de"])
    assert writer.size_bytes == 5
    writer.write([content(2 * MIB)])
    writer.sync()
    assert writer.size_bytes == 2 * MIB + 5
    writer.close()


def test_an_object_grows_after_a_sync_and_each_sync_can_be_read(store: Store, *, big: bool) -> None:
    writer = store.create(new_id(), big=big)
    whole = b""
    for piece in (b"one", content(5000), b"three", content(MIB + 1)):
        writer.write([piece])
        writer.sync()
        whole += piece
        assert read(store, writer.object_id, len(whole)) == whole
    writer.close()
    assert read(store, writer.object_id, len(whole)) == whole


@pytest.fixture(scope="module", params=STORES)
def lasting_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder: Path = tmp_path_factory.mktemp("lasting")
    return STORES[request.param](folder)


@given(
    writes=st.lists(
        st.lists(st.binary(max_size=50) | st.integers(1, 40_000).map(content), max_size=5) | st.just("sync"),
        max_size=8,
    ),
    big=st.booleans(),
)
@settings(max_examples=60)
def test_any_writes_and_syncs_leave_just_the_bytes_in_order(
    lasting_store: Store, writes: list[list[bytes] | str], *, big: bool
) -> None:
    writer = lasting_store.create(new_id(), big=big)
    whole = b""
    for step in writes:
        if isinstance(step, str):
            writer.sync()
        else:
            writer.write(step)
            whole += b"".join(step)
        assert writer.size_bytes == len(whole)
    writer.sync()
    assert read(lasting_store, writer.object_id, len(whole)) == whole
    with pytest.raises(StorageUnavailableError):
        read(lasting_store, writer.object_id, len(whole) + 1)
    writer.discard()


@pytest.mark.parametrize(("offset", "size"), [(0, 10), (0, 0), (3, 4), (9, 1), (10, 0)])
def test_any_run_within_an_object_is_read(store: Store, offset: int, size: int) -> None:
    object_id = written(store, b"0123456789")
    assert read(store, object_id, size, offset) == b"0123456789"[offset : offset + size]


@pytest.mark.parametrize(("offset", "size"), [(0, 11), (9, 2), (10, 1), (1000, 1), (5, MIB)])
def test_reading_past_the_end_is_an_error_and_never_short(store: Store, offset: int, size: int) -> None:
    object_id = written(store, b"0123456789")
    with pytest.raises(StorageUnavailableError):
        read(store, object_id, size, offset)


def test_a_reader_serves_many_threads(store: Store) -> None:
    size = 200_000
    object_id = written(store, content(size))
    reader = store.open(object_id)
    offsets = [number * 997 % (size - 5000) for number in range(400)]
    with ThreadPoolExecutor(8) as threads:
        read_back = list(threads.map(lambda offset: reader.read(offset, 5000), offsets))
    reader.close()
    assert read_back == [content(size)[offset : offset + 5000] for offset in offsets]


def test_an_object_that_is_not_there_cannot_be_opened(store: Store) -> None:
    with pytest.raises(StorageUnavailableError):
        store.open(new_id())


def test_readers_and_writers_may_be_closed_twice(store: Store, *, big: bool) -> None:
    writer = store.create(new_id(), big=big)
    writer.write([b"x"])
    writer.sync()
    reader = store.open(writer.object_id)
    for closed in (writer, reader):
        closed.close()
        closed.close()
    assert read(store, writer.object_id, 1) == b"x"


def test_a_closed_writer_writes_and_syncs_no_more(store: Store, *, big: bool) -> None:
    writer = store.create(new_id(), big=big)
    writer.close()
    with pytest.raises(StorageUnavailableError):
        writer.write([b"x"])
    with pytest.raises(StorageUnavailableError):
        writer.sync()


@pytest.mark.parametrize("synced", [True, False])
def test_a_discarded_object_is_gone(store: Store, *, synced: bool, big: bool) -> None:
    writer = store.create(new_id(), big=big)
    writer.write([b"x" * 5000])
    if synced:
        writer.sync()
    writer.discard()
    writer.discard()
    writer.close()
    assert list(store.list()) == []
    with pytest.raises(StorageUnavailableError):
        store.open(writer.object_id)


def test_objects_are_listed_from_their_sync_until_they_are_removed(store: Store) -> None:
    assert list(store.list()) == []
    ids = [written(store, b"x") for _ in range(20)]
    assert sorted(store.list()) == sorted(ids)
    assert len(set(ids)) == 20
