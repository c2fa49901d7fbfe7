"""What followers are given. Many are given the same, so what is made of it on the way out is made once."""

from collections.abc import Callable, Sequence
from typing import Self

from app.domain.batch import FINAL_BATCH, Batch
from app.domain.upload import Upload
from app.progress.position import Position


class Shared:
    """Something that many are sent; immutable but for what has been made of it."""

    __slots__ = ("_made",)

    def __init__(self) -> None:
        self._made: dict[Callable[[Self], bytes], bytes] = {}

    def once(self, encode: Callable[[Self], bytes]) -> bytes:
        """Return `encode` of it, which is called the first time only. `encode` must be the same object each time."""
        made = self._made.get(encode)
        if made is None:
            made = self._made[encode] = encode(self)
        return made


class Snapshot(Shared):
    """A batch as one read found it."""

    __slots__ = ("batch",)

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch

    @property
    def version(self) -> int:
        """The batch's version."""
        return self.batch.version

    @property
    def position(self) -> Position:
        """Where a follower stands that knows all of it."""
        return Position(self.batch.version)

    @property
    def is_final(self) -> bool:
        """Whether the batch is in a final state; a retry may still take it out of it."""
        return self.batch.status in FINAL_BATCH


class Change(Shared):
    """A step that takes a follower from one position to a later one.

    `uploads` are those that changed, as they are now, in the order of (version, id). `snapshot` is the state that is
    known whole with this step, or None where more of the same change is to come.
    """

    __slots__ = ("end", "snapshot", "uploads")

    def __init__(self, end: Position, uploads: Sequence[Upload], snapshot: Snapshot | None) -> None:
        super().__init__()
        self.end = end
        self.uploads = uploads
        self.snapshot = snapshot
