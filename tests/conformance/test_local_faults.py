import errno
import fcntl
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.domain.errors import StorageFullError, StorageUnavailableError
from app.domain.ids import new_id
from app.storage.local import LocalStore
from tests.conformance.conftest import local_store
from tests.conformance.objects import is_claimable, read, remove, written
from tests.conformance.system import SYNC_DATA, SYNC_FOLDER, WRITE, System

MIB = 1 << 20
FULL = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG]
FAULTS = [*((number, StorageFullError) for number in FULL), (errno.EIO, StorageUnavailableError)]
PIECE = bytes(range(256)) * 5000
BLOCK = 4096


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return local_store(tmp_path)


@pytest.fixture
def system(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> System:
    return System(monkeypatch, local.root)


@pytest.mark.parametrize(("number", "error"), FAULTS)
@pytest.mark.parametrize("kind", [WRITE, SYNC_DATA, SYNC_FOLDER])
def test_a_writer_that_failed_once_is_never_tried_again(
    local: LocalStore, system: System, kind: str, number: int, error: type[Exception], *, big: bool
) -> None:
    writer = local.create(new_id(), big=big)
    system.fail(kind, number)
    with pytest.raises(error):  # noqa: PT012 - either may be the one
        writer.write([PIECE])
        writer.sync()
    system.heal()
    calls = list(system.calls)
    for _ in range(2):
        with pytest.raises(StorageUnavailableError):
            writer.write([b"more"])
        with pytest.raises(StorageUnavailableError):
            writer.sync()
    assert system.calls == calls
    assert not is_claimable(local, writer.object_id)
    writer.discard()
    assert list(local.list()) == []


def test_a_second_sync_that_fails_breaks_the_writer_too(local: LocalStore, system: System, *, big: bool) -> None:
    writer = local.create(new_id(), big=big)
    writer.write([b"durable"])
    writer.sync()
    writer.write([b"lost"])
    system.fail(SYNC_DATA, errno.EIO, times=1)
    with pytest.raises(StorageUnavailableError):
        writer.sync()
    with pytest.raises(StorageUnavailableError):
        writer.sync()
    writer.close()
    assert read(local, writer.object_id, 7) == b"durable"


def test_writes_that_take_only_a_part_are_gone_on_with(local: LocalStore, system: System, *, big: bool) -> None:
    system.shortest_bytes = BLOCK if big else 1
    writer = local.create(new_id(), big=big)
    writer.write([b"one", PIECE, b"", b"two", PIECE])
    writer.sync()
    writer.close()
    whole = b"one" + PIECE + b"two" + PIECE
    assert writer.size_bytes == len(whole)
    assert read(local, writer.object_id, len(whole)) == whole
    assert len([call for call in system.calls if call.kind == WRITE]) > 5


def test_a_disk_that_refuses_direct_writes_is_written_through_the_cache(local: LocalStore, system: System) -> None:
    writer = local.create(new_id(), big=True)
    system.fail(WRITE, errno.EINVAL, times=1)
    writer.write([PIECE, PIECE])
    writer.write([PIECE])
    writer.sync()
    writer.close()
    assert read(local, writer.object_id, 3 * len(PIECE)) == 3 * PIECE


def test_a_file_system_without_direct_writes_does_as_well(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl

    def refusing(descriptor: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETFL and argument & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refusing)
    object_id = written(local, PIECE, b"rest", big=True)
    assert read(local, object_id, len(PIECE) + 4) == PIECE + b"rest"


@pytest.mark.parametrize(("number", "error"), [*FAULTS, (errno.EMFILE, StorageUnavailableError)])
def test_an_object_that_cannot_be_made_is_an_error_of_the_store(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    def failing(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(error):
        local.create(new_id())
    with pytest.raises(error):
        local.open(new_id())
    with pytest.raises(error):
        local.claim_abandoned(new_id())


def test_an_object_that_cannot_be_held_is_not_left_open(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as broken:
        broken.setattr(fcntl, "flock", failing)
        for _ in range(10):
            with pytest.raises(StorageUnavailableError):
                local.create(new_id())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_object_is_never_written_over(local: LocalStore) -> None:
    object_id = written(local, b"first")
    with pytest.raises(StorageUnavailableError):
        local.create(object_id)
    assert read(local, object_id, 5) == b"first"


def test_a_removal_that_fails_is_an_error_and_can_be_tried_again(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_id = written(local, b"x")

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "unlink", failing)
        claim = local.claim_abandoned(object_id)
        assert claim
        with pytest.raises(StorageUnavailableError):
            claim.remove()
        claim.release()
    remove(local, object_id)
    assert list(local.list()) == []


def test_a_discard_that_fails_leaves_the_object_to_the_sweeper(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    writer = local.create(new_id())
    with monkeypatch.context() as broken:
        broken.setattr(os, "unlink", failing)
        writer.discard()
    assert list(local.list()) == [writer.object_id]
    remove(local, writer.object_id)


@pytest.mark.parametrize("end", ["close", "discard"])
def test_a_file_that_cannot_be_closed_is_let_go_of_all_the_same(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    real = os.close

    def failing(descriptor: int) -> None:
        real(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    writer = local.create(new_id())
    with monkeypatch.context() as broken:
        broken.setattr(os, "close", failing)
        getattr(writer, end)()
    writer.close()
    assert is_claimable(local, writer.object_id)


def test_what_a_client_is_told_names_no_path(local: LocalStore) -> None:
    with pytest.raises(StorageUnavailableError) as refused:
        local.open(new_id())
    assert str(local.root) not in str(refused.value)
    assert "/" not in refused.value.detail


def test_one_object_is_claimed_by_one_at_a_time(local: LocalStore) -> None:
    object_id = written(local, b"x")
    claim = local.claim_abandoned(object_id)
    assert claim
    assert local.claim_abandoned(object_id) is None
    claim.release()
    assert is_claimable(local, object_id)


def test_a_program_started_meanwhile_does_not_inherit_the_hold(local: LocalStore) -> None:
    writer = local.create(new_id())
    with subprocess.Popen(["sleep", "60"], close_fds=False) as program:
        writer.close()
        try:
            assert is_claimable(local, writer.object_id)
        finally:
            program.kill()


def test_names_that_are_no_ids_are_passed_over(local: LocalStore) -> None:
    object_id = written(local, b"x")
    shard = local.root / str(object_id)[-2:]
    (shard / "lost+found").mkdir()
    (shard / "notes.txt").write_text("x")
    (shard / f"{object_id}.tmp").write_text("x")
    for resembling in ("{" + str(object_id) + "}", f"urn:uuid:{object_id}", str(object_id).upper(), object_id.hex):
        (shard / resembling).write_text("x")
    (local.root / "README").write_text("x")
    assert list(local.list()) == [object_id]


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_objects_are_private_whatever_the_umask(tmp_path: Path) -> None:
    store = local_store(tmp_path)
    object_id = written(store, b"x")
    file = next(store.root.rglob(str(object_id)))
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (store.root, file.parent, file)]
    assert modes == [0o700, 0o700, 0o600]


def test_preparing_twice_changes_nothing(local: LocalStore) -> None:
    object_id = written(local, b"x")
    local.prepare()
    assert list(local.list()) == [object_id]


def test_a_missing_shard_comes_back(local: LocalStore) -> None:
    (local.root / "7f").rmdir()
    local.prepare()
    assert (local.root / "7f").is_dir()


def test_a_folder_that_cannot_be_made_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageUnavailableError):
        LocalStore(tmp_path / "file" / "objects").prepare()


def test_a_store_that_lost_its_folders_says_so(local: LocalStore) -> None:
    for shard in local.root.iterdir():
        shard.rmdir()
    with pytest.raises(StorageUnavailableError):
        local.create(new_id())
    with pytest.raises(StorageUnavailableError):
        list(local.list())


def test_a_root_that_cannot_be_synced_does_not_keep_the_store_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read-only images (squashfs and the like) answer fsync of a folder with EINVAL; `prepare` syncs every folder up to
    `/` and lets only PermissionError pass."""
    real = os.fsync

    def refusing(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == Path("/"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refusing)
    LocalStore(tmp_path / "objects").prepare()
