"""The one thing that is remembered between two runs of the same push: which batch it was filling."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import UUID


class State:
    """One small file for each pair of service and paths; not there unless a push of them is unfinished."""

    def __init__(self, folder: Path, url: str, paths: Sequence[str]) -> None:
        self._what: Final = {"url": url, "paths": sorted(paths)}
        name = hashlib.sha256(json.dumps(self._what).encode()).hexdigest()[:32]
        self.path: Final = folder / "push" / f"{name}.json"

    def load(self) -> UUID | None:
        """Return the batch that an earlier run did not finish; None where there is none, or the file makes no sense."""
        try:
            return UUID(json.loads(self.path.read_bytes())["batch_id"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def save(self, batch_id: UUID) -> None:
        """Remember the batch: whole or not at all, whenever the machine stops. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self.path.with_suffix(f".{os.getpid()}")
        with draft.open("w") as opened:
            json.dump(self._what | {"batch_id": str(batch_id)}, opened)
            opened.flush()
            os.fsync(opened.fileno())
        draft.replace(self.path)

    def clear(self) -> None:
        """Forget the batch."""
        with suppress(OSError):
            self.path.unlink()
