"""Real files of mixed kinds and sizes, from what every machine has; made where it has none."""

import os
import random
import stat
import struct
import sysconfig
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from tests.support.wire import File

SEED: Final = 20_260_710
LARGEST_BYTES: Final = 20 * 1024 * 1024
_LARGEST_REAL_BYTES: Final = 5 * 1024 * 1024
_REAL_BYTES: Final = 90 * 1024 * 1024
MIB: Final = 1024 * 1024

SIZES: Final = (0, 0, 1, 2, 255, 4096, 65_535, 65_536, 65_537, MIB - 1, MIB, MIB + 1, 3 * MIB, LARGEST_BYTES)
"""Sizes at which something changes: nothing, a page, a chunk of the socket, the end of packs, the largest."""


def thousand(folder: Path) -> list[File]:
    """1,000 files of at most 150 MB together. What has to be made is made in `folder`."""
    made = [*kinds(folder), *sized(folder)]
    real = list(islice(real_files(), 1000 - len(made)))
    padding = [
        _written(folder / f"pad-{n}", random.Random(n).randbytes(n)) for n in range(1000 - len(made) - len(real))
    ]
    paths = [*real, *padding, *made]
    random.Random(SEED).shuffle(paths)
    return [File(f"{number:04}/{_plain(path.name)}", path) for number, path in enumerate(paths)]


def real_files() -> Iterator[Path]:
    """Files that other people wrote, in an order that is the same on the same machine."""
    trees = (Path(sysconfig.get_paths()["stdlib"]), Path("/usr/share/doc"), Path("/usr/lib"))
    found = [sorted(path for path in _walk(tree) if _is_fit(path)) for tree in trees]
    for number, paths in enumerate(found):
        random.Random(SEED + number).shuffle(paths)
    total = 0
    for number in range(max(map(len, found))):
        for paths in found:
            if number < len(paths) and total + paths[number].stat().st_size <= _REAL_BYTES:
                total += paths[number].stat().st_size
                yield paths[number]


def sized(folder: Path) -> list[Path]:
    """One file of each of SIZES, with random bytes in it."""
    return [
        _written(folder / f"sized-{number}-{size}.bin", random.Random(size).randbytes(size))
        for number, size in enumerate(SIZES)
    ]


KINDS: Final = {
    "kind.png": {"image/png"},
    "kind.zip": {"application/zip"},
    "kind.tar": {"application/x-tar"},
    "kind.gz": {"application/gzip", "application/x-gzip"},
    "kind.pdf": {"application/pdf"},
    "kind.txt": {"text/plain"},
    "kind.html": {"text/html"},
    "kind.svg": {"image/svg+xml"},
    "kind.json": {"application/json"},
    "kind.sqlite": {"application/vnd.sqlite3", "application/x-sqlite3"},
    "kind.elf": {"application/x-sharedlib", "application/x-executable", "application/x-pie-executable"},
}
"""Files of `kinds`, and what each may be taken for."""


def kinds(folder: Path) -> list[Path]:
    """One file of each of KINDS."""
    text = _written(folder / "kind.txt", b"Just some plain text, in two lines.\nThis is the second one.\n" * 40)
    with zipfile.ZipFile(folder / "kind.zip", "w") as archive:
        archive.write(text, "text.txt")
    with tarfile.open(folder / "kind.tar", "w") as tar:
        tar.add(text, "text.txt")
    compressor = zlib.compressobj(wbits=31)
    _written(folder / "kind.gz", compressor.compress(text.read_bytes()) + compressor.flush())
    _written(folder / "kind.png", png(31, 17))
    _written(
        folder / "kind.pdf", b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF\n"
    )
    _written(
        folder / "kind.html", b"<!DOCTYPE html>\n<html><head><title>T</title></head><body><p>Text</p></body></html>"
    )
    _written(folder / "kind.svg", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="1"></svg>\n')
    _written(folder / "kind.json", b'{"a": [1, 2, 3], "b": {"c": null}}\n')
    page = b"SQLite format 3\0" + struct.pack(">HBBBBBB", 4096, 1, 1, 0, 64, 32, 32) + bytes(72) + bytes(3996)
    _written(folder / "kind.sqlite", page)
    _written(folder / "kind.elf", Path("/proc/self/exe").read_bytes()[:300_000])
    return [folder / name for name in KINDS]


def png(width: int, height: int) -> bytes:
    """A black picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 1) * height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _walk(tree: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(tree):
        folders[:] = [name for name in folders if name not in {"site-packages", "__pycache__"}]
        yield from (Path(parent, name) for name in names)


def _is_fit(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST_REAL_BYTES and os.access(path, os.R_OK)


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)[:100]
