"""The calls that a local store makes to the system on open files: noted, and made to fail where a test says so."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

WRITES: Final = ("write", "writev")
SYNCS: Final = ("fdatasync", "fsync")
WRITE: Final = "write"
SYNC_DATA: Final = "sync data"
SYNC_FOLDER: Final = "sync folder"
ALWAYS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Call:
    """One call, by what it means: WRITE, SYNC_DATA or SYNC_FOLDER."""

    kind: str
    path: Path


class System:
    """Watches `os` for calls on files and folders at or below `root`."""

    def __init__(self, patch: pytest.MonkeyPatch, root: Path) -> None:
        self.calls: Final[list[Call]] = []
        self.shortest_bytes = 0
        """Where it is set, every write takes no more of a buffer than half of it, and no less than this."""
        self._root: Final = root
        self._faults: Final[dict[str, list[int]]] = {}
        for name in (*WRITES, *SYNCS):
            patch.setattr(os, name, partial(self._call, name, getattr(os, name)))

    @property
    def kinds(self) -> list[str]:
        """What was done, in order; the same thing in a row once."""
        kinds = [call.kind for call in self.calls]
        return [kind for place, kind in enumerate(kinds) if place == 0 or kinds[place - 1] != kind]

    def fail(self, kind: str, number: int, *, times: int = ALWAYS) -> None:
        """Make the next calls of that kind fail with that errno, undone."""
        self._faults[kind] = [number] * times

    def heal(self) -> None:
        self._faults.clear()

    def _call(self, name: str, real: Any, descriptor: int, *arguments: Any) -> Any:  # noqa: ANN401 - as `os` has it
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if not path.is_relative_to(self._root):
            return real(descriptor, *arguments)
        kind = WRITE if name in WRITES else SYNC_FOLDER if path.is_dir() else SYNC_DATA
        self.calls.append(Call(kind, path))
        if self._faults.get(kind):
            number = self._faults[kind].pop()
            raise OSError(number, os.strerror(number))
        if kind == WRITE and self.shortest_bytes:
            first = memoryview(arguments[0] if name == "write" else arguments[0][0])
            first = first[: max(len(first) // 2, self.shortest_bytes)]
            arguments = (first,) if name == "write" else ([first],)
        return real(descriptor, *arguments)
