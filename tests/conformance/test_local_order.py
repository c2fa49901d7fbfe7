"""What reaches the disk in which order. `kill -9` cannot show it: the page cache outlives the process."""

import errno
from pathlib import Path

import pytest

from app.domain.errors import StorageUnavailableError
from app.domain.ids import new_id
from app.storage.local import LocalStore
from app.storage.pack import PackWriter
from tests.conformance.conftest import local_store
from tests.conformance.system import SYNC_DATA, SYNC_FOLDER, WRITE, Call, System

MIB = 1 << 20


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return local_store(tmp_path)


@pytest.fixture
def system(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> System:
    return System(monkeypatch, local.root)


def test_data_is_synced_before_its_name_and_both_before_the_answer(
    local: LocalStore, system: System, *, big: bool
) -> None:
    writer = local.create(new_id(), big=big)
    writer.write([b"x" * 3 * MIB, b"rest"])
    assert system.kinds == [WRITE]
    writer.sync()
    assert system.kinds == [WRITE, SYNC_DATA, SYNC_FOLDER]
    file = local.root / str(writer.object_id)[-2:] / str(writer.object_id)
    assert [call for call in system.calls if call.kind != WRITE] == [
        Call(SYNC_DATA, file),
        Call(SYNC_FOLDER, file.parent),
    ]
    assert {call.path for call in system.calls if call.kind == WRITE} == {file}
    writer.close()
    assert system.kinds == [WRITE, SYNC_DATA, SYNC_FOLDER]


def test_the_name_is_synced_only_the_first_time(local: LocalStore, system: System, *, big: bool) -> None:
    writer = local.create(new_id(), big=big)
    for piece in (b"one", b"two", b"three"):
        writer.write([piece])
        writer.sync()
    assert system.kinds == [WRITE, SYNC_DATA, SYNC_FOLDER, *([WRITE, SYNC_DATA] * 2)]
    writer.close()


@pytest.mark.parametrize("tail", [0, 1, 4095])
def test_no_byte_is_written_behind_the_sync_that_covers_it(
    local: LocalStore, system: System, tail: int, *, big: bool
) -> None:
    writer = local.create(new_id(), big=big)
    for _ in range(20):
        writer.write([b"x" * 100_000])
    writer.write([b"y" * tail])
    writer.sync()
    writer.close()
    assert system.kinds == [WRITE, SYNC_DATA, SYNC_FOLDER]


def test_an_empty_object_is_synced_too(local: LocalStore, system: System, *, big: bool) -> None:
    writer = local.create(new_id(), big=big)
    writer.sync()
    assert system.kinds[-2:] == [SYNC_DATA, SYNC_FOLDER]
    writer.close()


def test_closing_and_discarding_sync_nothing(local: LocalStore, system: System) -> None:
    for writer in (local.create(new_id()), local.create(new_id())):
        writer.write([b"x"])
    writer.close()
    writer.discard()
    assert system.kinds == [WRITE]


def test_a_group_in_a_pack_costs_one_sync_of_data(local: LocalStore, system: System) -> None:
    pack = PackWriter(local, pack_bytes=MIB, new_id=new_id)
    for _ in range(3):
        pack.append([[b"x" * 100]] * 50)
    kinds = [call.kind for call in system.calls]
    assert (kinds.count(SYNC_DATA), kinds.count(SYNC_FOLDER)) == (3, 1)
    assert system.kinds == [WRITE, SYNC_DATA, SYNC_FOLDER, *([WRITE, SYNC_DATA] * 2)]
    pack.close()


def test_every_folder_that_is_made_is_synced_and_the_one_it_is_made_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System(monkeypatch, tmp_path)
    LocalStore(tmp_path / "a" / "b" / "objects").prepare()
    assert set(system.kinds) == {SYNC_FOLDER}
    made = {tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "objects"}
    assert {call.path for call in system.calls} >= made | {tmp_path}


def test_folders_made_by_a_start_that_ended_before_its_sync_are_synced_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "objects")
    system = System(monkeypatch, tmp_path)
    system.fail(SYNC_FOLDER, errno.EIO, times=1)
    with pytest.raises(StorageUnavailableError):
        store.prepare()
    system.calls.clear()
    store.prepare()
    assert {call.path for call in system.calls} >= {tmp_path / "objects", tmp_path}


def test_a_file_that_is_gone_on_with_has_its_name_already(local: LocalStore, system: System) -> None:
    writer = local.create(new_id(), big=True)
    writer.write([b"x" * 5000])
    writer.sync()
    writer.close()
    system.calls.clear()
    again = local.reopen(writer.object_id, at=5000)
    assert again
    again.write([b"y" * 3 * MIB])
    assert system.kinds == [WRITE]
    again.sync()
    assert system.kinds == [WRITE, SYNC_DATA]
    again.close()
    assert system.kinds == [WRITE, SYNC_DATA]
