"""Requests that a client may send again under the same key: the `Idempotency-Key` of the IETF httpapi draft."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID


class RequestKey(NamedTuple):
    """A client's key, and what its request is recognised by."""

    owner: UUID
    key: str
    """1 to 255 characters."""
    fingerprint: bytes
    """32 bytes. The same request has the same one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered, to be said again."""

    status: int
    headers: Mapping[str, str]
    body: bytes
