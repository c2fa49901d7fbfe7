import io
import os
import tarfile

import pytest

from app.domain.errors import StorageUnavailableError
from app.processing.stored_file import StoredFile

OBJECT = b"before" + bytes(range(100)) + b"behind"


class InMemory:
    """An object, as a store far away may have it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []

    def read(self, offset: int, size: int) -> bytes:
        self.asked.append((offset, size))
        if offset + size > len(self.data):
            raise StorageUnavailableError
        return self.data[offset : offset + size]

    def close(self) -> None:
        self.data = b""


def opened() -> io.BufferedReader:
    return io.BufferedReader(StoredFile(InMemory(OBJECT), 6, 100))


def test_only_the_slice_is_there() -> None:
    assert opened().read() == bytes(range(100))
    assert opened().read(1000) == bytes(range(100))


def test_seeking_is_as_in_any_file() -> None:
    file = opened()
    assert file.seek(-3, os.SEEK_END) == 97
    assert file.read() == bytes([97, 98, 99])
    assert file.seek(10) == 10
    assert file.seek(5, os.SEEK_CUR) == 15
    assert file.read(2) == bytes([15, 16])
    assert file.tell() == 17
    assert file.seek(500) == 500
    assert file.read() == b""
    with pytest.raises(ValueError, match="negative"):
        StoredFile(InMemory(OBJECT), 6, 100).seek(-1)


def test_it_is_no_file_of_the_system_and_cannot_be_written() -> None:
    file = opened()
    assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
    with pytest.raises(io.UnsupportedOperation):
        file.fileno()
    with pytest.raises(io.UnsupportedOperation):
        file.write(b"x")


def test_nothing_is_asked_for_beyond_the_slice() -> None:
    reader = InMemory(OBJECT)
    io.BufferedReader(StoredFile(reader, 6, 100), 64 * 1024).read(5)
    assert all(offset >= 6 and offset + size <= 106 for offset, size in reader.asked)


def test_an_archive_can_be_read_from_it() -> None:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as tar:
        info = tarfile.TarInfo("a")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"words"))
    data = written.getvalue()
    with tarfile.open(fileobj=io.BufferedReader(StoredFile(InMemory(b"xx" + data + b"yy"), 2, len(data)))) as tar:
        member = tar.extractfile("a")
        assert member
        assert member.read() == b"words"


def test_lost_bytes_stay_lost_whoever_swallows_the_error() -> None:
    raw = StoredFile(InMemory(OBJECT), 6, 1000)
    assert raw.lost is False
    with pytest.raises(StorageUnavailableError):
        io.BufferedReader(raw).read()
    assert raw.lost is True
