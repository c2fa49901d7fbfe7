"""What the suite does with objects, in this process or another."""

import os
import signal
from collections.abc import Sequence
from uuid import UUID

from app.domain.ids import new_id
from app.storage.base import ObjectWriter, Store


def written(store: Store, *buffers: bytes, big: bool = False) -> UUID:
    """A new object, synced and closed."""
    writer = store.create(new_id(), big=big)
    writer.write(buffers)
    writer.sync()
    writer.close()
    return writer.object_id


def read(store: Store, object_id: UUID, size: int, offset: int = 0) -> bytes:
    reader = store.open(object_id)
    try:
        return reader.read(offset, size)
    finally:
        reader.close()


def is_claimable(store: Store, object_id: UUID) -> bool:
    claim = store.claim_abandoned(object_id)
    if claim:
        claim.release()
    return claim is not None


def remove(store: Store, object_id: UUID) -> None:
    claim = store.claim_abandoned(object_id)
    assert claim
    claim.remove()
    claim.release()


def write_and_be_killed(store: Store, object_id: UUID, buffers: Sequence[bytes]) -> None:
    """For a process of its own: it dies with the writer open."""
    writer: ObjectWriter = store.create(object_id)
    writer.write(buffers)
    writer.sync()
    os.kill(os.getpid(), signal.SIGKILL)
