"""How much is allowed, as one value that the rules take."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

MAX_FILENAME_BYTES: Final = 255
MAX_CONTENT_TYPE_BYTES: Final = 255
MAX_FIELD_BYTES: Final = 64 * 1024
MAX_REF_CHARACTERS: Final = 255
MAX_MANIFEST_ENTRIES: Final = 10_000
MAX_HEADERS: Final = 100
MAX_HEAD_BYTES: Final = 32 * 1024
MAX_TARGET_BYTES: Final = 8 * 1024
MAX_CHUNK_OVERHEAD_BYTES: Final = 16 * 1024
MAX_PIPELINED: Final = 100
"""Requests of one connection that wait for the answers before them."""
STEP_BYTES: Final = 1 << 20
"""A body is taken, parsed, hashed and written in steps of about this size."""
PAGE_DEFAULT: Final = 100
PAGE_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is decoded of images."""

    max_pixels: int
    """Width times height, of what is decoded at all."""
    thumbnail_pixels: int
    """The longer side of a thumbnail, at most."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one service. Sizes in bytes."""

    max_file_bytes: int
    max_request_bytes: int
    max_parts: int
    max_files_per_batch: int
    pack_file_bytes: int
    batch_lifetime: timedelta
    """How long a batch stays open for more whose opener names no time."""
    allow_private_webhooks: bool = False
    """Whether webhooks may go to addresses that are not public, and without TLS."""
    part_lifetime: timedelta = timedelta(days=1)
    """How long a part waits for the file that it is to become."""
