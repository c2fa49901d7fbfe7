import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from app.domain.errors import StorageFullError, StorageUnavailableError
from app.domain.ids import new_id
from app.storage.base import BLOCK_BYTES, Store
from app.storage.pack import PackWriter
from tests.conformance.objects import is_claimable, read
from tests.support.breaking_store import BreakingStore, Fault

FULL = 1000
IDLE = 60.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def breaking(store: Store) -> BreakingStore:
    return BreakingStore(store)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pack(breaking: BreakingStore, clock: Clock) -> PackWriter:
    return PackWriter(breaking, pack_bytes=FULL, new_id=new_id, idle_seconds=IDLE, block_bytes=1, monotonic=clock)


def test_files_lie_one_behind_the_other_and_are_durable(pack: PackWriter, breaking: BreakingStore) -> None:
    pack_id, offsets = pack.append([[b"one"], [b"tw", b"o"], [], [b""], [b"", b"three"]])
    assert offsets == [0, 3, 6, 6, 6]
    assert read(breaking, pack_id, 11) == b"onetwothree"
    assert (breaking.writers[0].synced_bytes, pack.size_bytes) == (11, 11)


def test_the_next_group_goes_on_in_the_same_pack(pack: PackWriter, breaking: BreakingStore) -> None:
    first, _ = pack.append([[b"one"]])
    second, offsets = pack.append([[b"two"], [b"three"]])
    assert (first, offsets) == (second, [3, 6])
    assert read(breaking, first, 11) == b"onetwothree"
    assert breaking.writers[0].synced_bytes == 11


def test_each_group_begins_on_a_block_of_its_own(breaking: BreakingStore) -> None:
    pack = PackWriter(breaking, pack_bytes=1 << 20, new_id=new_id)
    pack_id, offsets = pack.append([[b"one"], [b"two"]])
    assert pack.append([[b"three"], [b"x" * BLOCK_BYTES]]) == (pack_id, [BLOCK_BYTES, BLOCK_BYTES + 5])
    assert pack.append([[b"four"]]) == (pack_id, [3 * BLOCK_BYTES])
    assert offsets == [0, 3]
    assert pack.size_bytes == breaking.writers[0].synced_bytes == 4 * BLOCK_BYTES
    assert read(breaking, pack_id, 8, BLOCK_BYTES) == b"threexxx"
    assert read(breaking, pack_id, 4, 3 * BLOCK_BYTES) == b"four"


def test_a_group_of_empty_files_is_a_pack_all_the_same(pack: PackWriter, breaking: BreakingStore) -> None:
    pack_id, offsets = pack.append([[], []])
    assert offsets == [0, 0]
    assert read(breaking, pack_id, 0) == b""


def test_a_pack_is_left_behind_once_it_is_full_and_no_sooner(pack: PackWriter, breaking: BreakingStore) -> None:
    first, _ = pack.append([[b"x" * (FULL - 1)]])
    pack.roll_if_full()
    assert pack.append([[b"x" * 5]]) == (first, [FULL - 1])
    assert not breaking.writers[0].closed
    pack.roll_if_full()
    assert breaking.writers[0].closed
    assert pack.size_bytes == 0
    second, offsets = pack.append([[b"y"]])
    assert second != first
    assert offsets == [0]


def test_a_pack_of_just_the_size_is_full(pack: PackWriter, breaking: BreakingStore) -> None:
    pack.append([[b"x" * FULL]])
    pack.roll_if_full()
    assert breaking.writers[0].closed


def test_a_full_pack_stays_held_until_the_rows_of_its_last_group_are_committed(
    pack: PackWriter, breaking: BreakingStore
) -> None:
    pack_id, _ = pack.append([[b"x" * 2 * FULL]])
    assert not is_claimable(breaking, pack_id)
    pack.roll_if_full()
    assert is_claimable(breaking, pack_id)


def test_a_pack_is_left_behind_when_nothing_came_for_a_while(
    pack: PackWriter, breaking: BreakingStore, clock: Clock
) -> None:
    first, _ = pack.append([[b"x"]])
    clock.now += IDLE - 1
    pack.roll_if_idle()
    assert pack.append([[b"y"]]) == (first, [1])
    clock.now += IDLE - 1
    pack.roll_if_idle()
    assert not breaking.writers[0].closed
    clock.now += 1
    pack.roll_if_idle()
    assert breaking.writers[0].closed
    assert pack.append([[b"z"]])[0] != first


def test_nothing_is_left_behind_where_nothing_is_open(pack: PackWriter, breaking: BreakingStore, clock: Clock) -> None:
    clock.now += 10 * IDLE
    pack.roll_if_idle()
    pack.roll_if_full()
    pack.close()
    assert (pack.size_bytes, breaking.writers) == (0, [])


def test_a_closed_pack_writer_begins_anew(pack: PackWriter, breaking: BreakingStore) -> None:
    first, _ = pack.append([[b"x"]])
    pack.close()
    pack.close()
    assert is_claimable(breaking, first)
    assert pack.append([[b"y"]])[0] != first
    assert read(breaking, first, 1) == b"x"


@pytest.mark.parametrize("fault", [StorageFullError(), StorageUnavailableError()])
@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_failure_leaves_the_pack_behind_and_what_was_durable_readable(
    pack: PackWriter, breaking: BreakingStore, call: str, fault: Fault
) -> None:
    first, _ = pack.append([[b"kept"]])
    breaking.faults[call] = fault
    with pytest.raises(type(fault)):
        pack.append([[b"lost"]])
    assert (pack.size_bytes, pack.is_full, breaking.writers[0].closed) == (0, True, False), "rows may come to it yet"
    pack.roll_if_full()
    assert (pack.is_full, breaking.writers[0].closed) == (False, True)
    breaking.faults.clear()
    second, offsets = pack.append([[b"next"]])
    assert second != first
    assert offsets == [0]
    assert (read(breaking, first, 4), read(breaking, second, 4)) == (b"kept", b"next")


def test_a_store_that_makes_no_objects_fails_the_group_and_not_the_next(
    pack: PackWriter, breaking: BreakingStore
) -> None:
    breaking.faults["create"] = StorageFullError()
    with pytest.raises(StorageFullError):
        pack.append([[b"lost"]])
    breaking.faults.clear()
    pack_id, _ = pack.append([[b"kept"]])
    assert read(breaking, pack_id, 4) == b"kept"


def test_a_pack_that_was_begun_and_failed_is_not_begun_again(store: Store) -> None:
    pack = PackWriter(store, pack_bytes=FULL, new_id=new_id)
    begun, _ = pack.end
    store.create(begun).close()  # what is left where its lock could not be taken
    with pytest.raises(StorageUnavailableError):
        pack.append([[b"one"]])
    pack_id, _ = pack.append([[b"one"]])
    assert read(store, pack_id, 3) == b"one"
    pack.close()


def test_a_failed_group_is_synced_only_once(pack: PackWriter, breaking: BreakingStore) -> None:
    breaking.faults["sync"] = StorageUnavailableError()
    for _ in range(3):
        with pytest.raises(StorageUnavailableError):
            pack.append([[b"lost"]])
    pack.roll_if_full()
    assert [writer.closed for writer in breaking.writers] == [True, True, True]
    assert len({writer.object_id for writer in breaking.writers}) == 3


def test_packs_are_read_by_many_while_they_grow(pack: PackWriter, breaking: BreakingStore) -> None:
    placed: list[tuple[UUID, int, bytes]] = []
    done = threading.Event()

    def check(choose: Callable[[int], int]) -> int:
        count = 0
        while not done.is_set() or not count:
            if not placed:
                continue
            pack_id, offset, content = placed[choose(len(placed))]
            assert read(breaking, pack_id, len(content), offset) == content
            count += 1
        return count

    with ThreadPoolExecutor(3) as readers:
        oldest, middle, newest = lambda _count: 0, lambda count: count // 2, lambda count: count - 1
        checks = [readers.submit(check, choose) for choose in (oldest, middle, newest)]
        try:
            for number in range(60):
                files = [b"%d-%d" % (number, part) * 5 for part in range(5)]
                pack_id, offsets = pack.append([[file[:3], file[3:]] for file in files])
                placed += [(pack_id, offset, file) for offset, file in zip(offsets, files, strict=True)]
                pack.roll_if_full()
        finally:
            done.set()
        assert all(one.result() for one in checks)
    assert len(breaking.writers) > 3
    for pack_id, offset, content in placed:
        assert read(breaking, pack_id, len(content), offset) == content
