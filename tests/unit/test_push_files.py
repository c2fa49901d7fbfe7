import hashlib
import os
from pathlib import Path
from threading import Event

import pytest

from app.client.files import (
    ChangedError,
    Entry,
    Failure,
    Found,
    NamesCollideError,
    Skipped,
    measure,
    open_at,
    read_piece,
    read_whole,
    sources,
    survey,
    walk,
)

FOLDERS = 200


def test_a_path_gives_its_own_name_to_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "photos"
    inner.mkdir()
    monkeypatch.chdir(inner)
    assert sources([Path()]) == sources([inner]) == sources([Path("../photos")]) == [Found(str(inner), "photos")]
    assert sources([Path("/")]) == [Found("/", "")]


def test_the_same_path_twice_is_one_and_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    assert len(sources([tmp_path, tmp_path])) == 1
    for paths in (["a/x", "b/x"], ["/", "x"]):
        with pytest.raises(NamesCollideError):
            sources([tmp_path / path for path in paths])


def test_every_regular_file_is_found_under_its_relative_path(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "empty").mkdir()
    names = {"top", "a/one", "a/b/two", "a/b/ü"}
    for name in names:
        (root / name).write_text(name)
    found = list(walk(sources([root])))
    assert {(one.ref, one.path) for one in found if isinstance(one, Found)} == {
        (f"root/{name}", str(root / name)) for name in names
    }
    assert len(found) == len(names)


def test_links_are_followed_where_they_are_named_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").touch()
    (tmp_path / "real/loop").symlink_to(tmp_path / "real")
    (tmp_path / "real/broken").symlink_to("nowhere")
    (tmp_path / "link").symlink_to("real")
    assert sorted(walk(sources([tmp_path / "link"])), key=str) == [
        Found(str(tmp_path / "link/file"), "link/file"),
        Skipped("link/broken", "symbolic link"),
        Skipped("link/loop", "symbolic link"),
    ]


def test_names_that_the_service_would_refuse_are_failures(tmp_path: Path) -> None:
    for name in (b"new\nline", b"not-\xff", b"x" * 250):
        (tmp_path / os.fsdecode(name)).touch()
    found = list(walk(sources([tmp_path])))
    assert len(found) == 3
    assert all(isinstance(one, Failure) and one.code == "invalid-filename" for one in found)
    assert all(one.ref.isprintable() for one in found)


def test_what_is_not_there_is_a_failure_and_the_rest_is_found(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    found = list(walk([Found(str(tmp_path / "gone"), "gone"), Found(str(tmp_path / "there"), "there")]))
    assert found == [
        Failure("gone", "unreadable", "No such file or directory"),
        Found(str(tmp_path / "there"), "there"),
    ]


def test_a_tree_that_is_too_deep_for_any_name_is_one_failure(tmp_path: Path) -> None:
    root = tmp_path / "r"
    deep = root / "/".join("d" * FOLDERS)
    deep.mkdir(parents=True)
    (deep / "file").touch()
    (found,) = walk(sources([root]))
    assert isinstance(found, Failure)
    assert (found.code, found.ref[:7]) == ("invalid-filename", "r/d/d/d")


def test_a_survey_adds_up_and_stops(tmp_path: Path) -> None:
    for size in (1, 20, 300):
        (tmp_path / f"{size}").write_bytes(bytes(size))
    sizes: list[int] = []
    stop = Event()
    survey(sources([tmp_path]), sizes.append, stop)
    assert sorted(sizes) == [1, 20, 300]
    stop.set()
    survey(sources([tmp_path]), sizes.append, stop)
    assert len(sizes) == 3


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 1_000_000])
def test_a_file_is_measured_and_read_back_from_any_offset(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    read: list[int] = []
    found = measure(Found(str(path), "file"), Event(), read.append)
    assert found == Entry(str(path), "file", size, hashlib.sha256(data).digest())
    assert sum(read) == size
    for offset in {0, size // 2, size}:
        assert read_whole(str(path), offset, size) == data[offset:]


def test_measuring_stops_when_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    stop = Event()
    stop.set()
    assert measure(Found(str(tmp_path / "file"), "file"), stop, lambda _: None) is None


def test_an_unreadable_file_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    missing = measure(Found(str(tmp_path / "gone"), "gone"), Event(), lambda _: None)
    assert missing == Failure("gone", "unreadable", "No such file or directory")
    folder = measure(Found(str(tmp_path), "folder"), Event(), lambda _: None)
    assert folder == Failure("folder", "unreadable", "Is a directory")


@pytest.mark.parametrize("size", [99, 101])
def test_a_file_of_another_size_than_declared_has_changed(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    with pytest.raises(ChangedError, match=f"had 100 bytes .* has {size} now"):
        open_at(str(path), 100)


def test_a_file_that_ends_early_while_it_is_read_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    descriptor = open_at(str(path), 100)
    try:
        os.truncate(path, 40)
        assert len(read_piece(descriptor, 0, 100)) == 40
        with pytest.raises(ChangedError):
            read_piece(descriptor, 40, 100)
    finally:
        os.close(descriptor)
