"""The child process that looks into files: `python -m app.processing.child FOLDER LEVEL FORM`.

It reads one JSON request a line from stdin, a list of `[object id, offset, size]`, and answers with one JSON line, a
list of the same length: the detected type of each, or null where the bytes are out of reach. It ends with its stdin, so
it never outlives its parent. Nothing of what is in a file can reach more than this process.
"""

import json
import os
import sys
from pathlib import Path
from typing import Final
from uuid import UUID

from app import logs
from app.domain.errors import StorageUnavailableError
from app.processing.inspect import HEAD_BYTES, detect_type
from app.storage.base import ObjectReader, Store
from app.storage.local import LocalStore

_NICENESS: Final = 10
"""Whoever is sending files goes before whoever looks into them."""


def answer(store: Store, places: list[tuple[str, int, int]]) -> list[str | None]:
    """Return the type of each file by its content, None where its bytes are out of reach."""
    readers: dict[str, ObjectReader] = {}
    types: list[str | None] = []
    try:
        for object_id, offset, size in places:
            try:
                if object_id not in readers:
                    readers[object_id] = store.open(UUID(object_id))
                types.append(detect_type(readers[object_id].read(offset, min(size, HEAD_BYTES))))
            except StorageUnavailableError:
                types.append(None)
    finally:
        for reader in readers.values():
            reader.close()
    return types


def main(folder: str, level: str, form: str) -> None:
    """Answer until stdin ends."""
    logs.configure(level, form)
    os.nice(_NICENESS)
    store = LocalStore(Path(folder))
    for line in sys.stdin:
        print(json.dumps(answer(store, json.loads(line))), flush=True)  # noqa: T201 - stdout is the way back


if __name__ == "__main__":
    main(*sys.argv[1:])
