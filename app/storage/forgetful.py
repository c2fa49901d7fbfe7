"""A store for bytes that are kept elsewhere already: what is written is only counted."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID


class ForgetfulWriter:
    """An ObjectWriter whose object is not there."""

    def __init__(self, object_id: UUID) -> None:
        self.object_id: Final = object_id
        self.size_bytes = 0

    def write(self, buffers: Sequence[bytes]) -> None:
        """Count the bytes."""
        self.size_bytes += sum(map(len, buffers))

    def sync(self) -> None:
        """Nothing is to be made durable."""

    def close(self) -> None:
        """Nothing is held."""

    def discard(self) -> None:
        """Nothing is there."""


class ForgetfulStore:
    """Creates objects that are not there; of a Store it does nothing else."""

    def create(self, object_id: UUID, *, big: bool = False) -> ForgetfulWriter:  # noqa: ARG002 - as Store has it
        """Begin such an object."""
        return ForgetfulWriter(object_id)


FORGETFUL: Final = ForgetfulStore()
